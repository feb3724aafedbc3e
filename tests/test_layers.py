"""Imports point down only, and heavy libraries are imported where DESIGN says."""

import ast
from pathlib import Path

import sb3_a3c

ROOT = Path(sb3_a3c.__file__).parent
#: From the top down. Each package imports only packages below it, for types too.
FLOORS = [
    ["sb3_a3c"],
    ["callbacks", "compare", "zoo"],
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


TREES = {name_of(path): ast.parse(path.read_text()) for path in sorted(ROOT.rglob("*.py"))}
#: All modules that each module imports, those for types and those within functions included.
ALL_IMPORTS = {
    module: {node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module}
    | {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    for module, nodes in ((module, list(ast.walk(tree))) for module, tree in TREES.items())
}
IMPORTS = {
    module: {name.removeprefix("sb3_a3c.") for name in names if name.split(".")[0] == "sb3_a3c"}
    for module, names in ALL_IMPORTS.items()
}


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
        "ray": {"backends.ray.connection"},
        "filelock": {"comparison.store"},
        "jinja2": {"comparison.report"},
        "matplotlib": {"callbacks", "comparison.figure"},
        "pandas": {"comparison.report"},
        "scipy": {"comparison.estimates"},
        "tqdm": {"comparison.progress"},
        "yaml": {"comparison.report", "comparison.settings"},
    }
    for module, names in ALL_IMPORTS.items():
        for library in {name.split(".")[0] for name in names} & homes.keys():
            assert homes[library] & {module, module.split(".")[0]}, f"{module} imports {library}"


def test_every_file_says_its_job_first() -> None:
    for module, tree in TREES.items():
        doc = ast.get_docstring(tree)
        assert doc and len(doc.splitlines()[0]) > 10, module
        assert module.split(".")[-1] not in {"utils", "helpers", "common", "misc", "manager"}


def test_no_file_is_long() -> None:
    for path in ROOT.rglob("*.py"):
        assert len(path.read_text().splitlines()) <= 300, path
