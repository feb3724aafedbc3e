"""
Compiles the kernels that the command line names and stores them in numba's cache. Runs in a separate process.

    python compile_apart.py act predict_values

The process imports only the kernels. The package's own ``__init__`` would import torch, which takes seconds.
"""

import sys
from pathlib import Path
from types import ModuleType


def main() -> None:
    root = Path(__file__).parents[1]
    for name, folder in (("sb3_a3c", root), ("sb3_a3c.kernels", root / "kernels")):
        package = ModuleType(name)
        package.__path__ = [str(folder)]
        sys.modules[name] = package
    from sb3_a3c.kernels.cache import use_cache
    from sb3_a3c.kernels.examples import EXAMPLES

    if use_cache():
        for name in sys.argv[1:]:
            EXAMPLES[name].call()


if __name__ == "__main__":
    main()
