"""Imports point down only, and heavy libraries are imported where DESIGN says."""

import ast
from pathlib import Path

import sb3_a3c

ROOT = Path(sb3_a3c.__file__).parent
#: From the top down. A module may import of its own package only what stands in a later row.
ROWS = [
    ["sb3_a3c"],
    ["callbacks"],
    ["compare"],
    ["comparison.processes", "comparison.progress", "comparison.report"],
    ["comparison.cells", "comparison.figure", "comparison.plan", "comparison.store"],
    ["comparison.arguments", "comparison.estimates"],
    ["comparison.run"],
    ["comparison.settings"],
    ["comparison.algorithms", "comparison.checkpoints", "comparison.pages", "comparison.provenance"],
    ["comparison", "comparison.faults", "comparison.step_counts"],
    ["a3c"],
    ["run"],
    ["model_changes"],
    ["arguments", "rollout_replay"],
    ["asynchrony", "policy_sync", "step_replay"],
    ["edits"],
    ["backends"],
    ["backends.processes", "backends.scheduled", "backends.serial", "backends.threads"],
    ["backends.watchdog"],
    ["backends.remote_worker", "backends.restarts"],
    ["backends.mailbox"],
    ["backends.life", "backends.preloaded"],
    ["backends.worker_process"],
    ["backends.max_lead", "backends.messages", "backends.protocol"],
    [
        "backends.channel",
        "backends.failures",
        "backends.fork_server",
        "backends.quota",
        "backends.lifeline",
        "backends.thread_group",
        "backends.torch_threads",
    ],
    ["backends.guard", "backends.installation"],
    ["worker_spec"],
    ["worker", "schedule"],
    ["recorder", "rollout", "terms"],
    ["faults", "env_gate"],
    ["engines"],
    ["engines.fused", "engines.reference"],
    ["engines.compilation", "engines.network"],
    ["engines.compile_apart"],
    ["engines.kernel_cache", "engines.kernel_examples"],
    ["engines.protocol", "engines.turns", "parameters", "parcel"],
    ["hyperparameters"],
    ["env_attributes"],
    ["env_slices"],
    ["optimizers", "file_lock", "lean_vec_envs"],
    ["cleanup", "locks"],
    ["normalization"],
    ["engines.kernels", "normalization_kernels", "layout", "memory", "policies", "cores", "attention", "policy_copies"],
    ["atomic_write", "bounded_policy", "env_closing", "extras", "policy_hooks", "same_path", "space_warnings"],
]


def name_of(path: Path) -> str:
    parts = list(path.relative_to(ROOT).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts) or "sb3_a3c"


def imports_of(path: Path) -> set[str]:
    """Modules of ours that a module imports when it runs (and not for its types alone)."""
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            node.body = []
    found = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module}
    found |= {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    return {name.removeprefix("sb3_a3c.") for name in found if name.split(".")[0] == "sb3_a3c"}


def test_imports_point_down() -> None:
    row_of = {name: index for index, row in enumerate(ROWS) for name in row}
    paths = sorted(ROOT.rglob("*.py"))
    assert {name_of(path) for path in paths} == set(row_of)
    upward = [
        f"{name_of(path)} imports {name}"
        for path in paths
        for name in imports_of(path)
        if row_of[name] <= row_of[name_of(path)]
    ]
    assert not upward


def test_heavy_libraries_are_imported_where_they_are_at_home() -> None:
    homes = {
        "numba": {"engines.kernels", "engines.kernel_cache", "normalization_kernels", "optimizers"},
        "matplotlib": {"callbacks", "comparison.figure"},
        "scipy": {"comparison.estimates"},
        "tqdm": {"comparison.progress"},
        "yaml": {"comparison.report", "comparison.settings"},
    }
    for path in ROOT.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) and node.module else []
            for library, allowed in homes.items():
                assert name_of(path) in allowed or library not in {name.split(".")[0] for name in names}, path


def test_every_file_says_its_job_first() -> None:
    for path in ROOT.rglob("*.py"):
        doc = ast.get_docstring(ast.parse(path.read_text()))
        assert doc and len(doc.splitlines()[0]) > 10, path
        assert path.stem not in {"utils", "helpers", "common", "misc", "manager"}
