"""Imports point down only, and heavy libraries are imported where DESIGN says."""

import ast
from pathlib import Path

import sb3_a3c

ROOT = Path(sb3_a3c.__file__).parent
#: From the top down. Each package imports only packages below it, for types too.
FLOORS = [
    ["sb3_a3c"],
    ["callbacks", "compare"],
    ["comparison"],
    ["a3c"],
    ["learning"],
    ["recording"],
    ["backends"],
    ["worker"],
    ["engines"],
    ["parameters"],
    ["envs"],
    ["policies"],
    ["kernels"],
    ["system"],
]


def name_of(path: Path) -> str:
    parts = list(path.relative_to(ROOT).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts) or "sb3_a3c"


def imports_of(path: Path) -> set[str]:
    """Modules of ours that a module imports, those for types included."""
    nodes = list(ast.walk(ast.parse(path.read_text())))
    found = {node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module}
    found |= {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    return {name.removeprefix("sb3_a3c.") for name in found if name.split(".")[0] == "sb3_a3c"}


IMPORTS = {name_of(path): imports_of(path) for path in sorted(ROOT.rglob("*.py"))}


def test_each_package_imports_only_packages_below_it() -> None:
    floor_of = {name: index for index, names in enumerate(FLOORS) for name in names}
    packages = {module: module.split(".")[0] for module in IMPORTS}
    assert set(packages.values()) == set(floor_of)
    upward = [
        f"{module} imports {name}"
        for module, names in IMPORTS.items()
        for name in names
        if name.split(".")[0] != packages[module] and floor_of[name.split(".")[0]] <= floor_of[packages[module]]
    ]
    assert not upward


def test_no_imports_are_circular() -> None:
    remaining = {module: {name for name in names if name in IMPORTS} for module, names in IMPORTS.items()}
    while leaves := {module for module, names in remaining.items() if not names & remaining.keys()}:
        remaining = {module: names for module, names in remaining.items() if module not in leaves}
    assert not remaining, f"these import each other: {sorted(remaining)}"


def test_heavy_libraries_are_imported_where_they_are_at_home() -> None:
    homes = {
        "numba": {"kernels"},
        "filelock": {"comparison.store"},
        "jinja2": {"comparison.report"},
        "matplotlib": {"callbacks", "comparison.figure"},
        "pandas": {"comparison.report"},
        "scipy": {"comparison.estimates"},
        "tqdm": {"comparison.progress"},
        "yaml": {"comparison.report", "comparison.settings"},
    }
    for path in ROOT.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) and node.module else []
            for library, allowed in homes.items():
                at_home = name_of(path) in allowed or name_of(path).split(".")[0] in allowed
                assert at_home or library not in {name.split(".")[0] for name in names}, path


def test_every_file_says_its_job_first() -> None:
    for path in ROOT.rglob("*.py"):
        doc = ast.get_docstring(ast.parse(path.read_text()))
        assert doc and len(doc.splitlines()[0]) > 10, path
        assert path.stem not in {"utils", "helpers", "common", "misc", "manager"}
