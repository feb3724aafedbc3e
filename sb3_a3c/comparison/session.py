"""A comparison from its arguments to its report: make the runs that are missing, then summarize all of them."""

from contextlib import closing
from functools import partial
from pathlib import Path

from sb3_a3c.comparison.arguments import Arguments
from sb3_a3c.comparison.errors import RunFailed
from sb3_a3c.comparison.estimates import Summary, summarize
from sb3_a3c.comparison.plan import compile_kernels, find_threshold, make_specs
from sb3_a3c.comparison.processes import Message, run_in_processes
from sb3_a3c.comparison.progress import Progress
from sb3_a3c.comparison.report import write_report, write_tables
from sb3_a3c.comparison.run import RunResult, RunSpec, Stage
from sb3_a3c.comparison.store import Store


def run_comparison(arguments: Arguments, progress_bar: bool) -> list[Summary]:
    """See :func:`sb3_a3c.compare.compare`."""
    arguments.check()
    threshold = find_threshold(arguments)
    specs = make_specs(arguments)
    store = Store(Path(arguments.out))
    with store.locked():
        missing = [spec for spec in specs if not store.has(spec)]
        failures: dict[str, str] = {}
        if missing:
            compile_kernels(specs)
            with closing(Progress(specs, len(specs) - len(missing), progress_bar)) as progress:
                run_in_processes(missing, arguments.jobs, partial(_handle, store, progress, failures))
        summaries = []
        for algo in arguments.algos:
            results = [store.load(spec) for spec in specs if spec.algorithm == algo and spec.name not in failures]
            if results:
                summaries.append(summarize(algo, results, threshold))
        if summaries:
            write_tables(summaries, store.out)
            write_report(arguments, summaries, {run: text.splitlines()[-1] for run, text in failures.items()}, store.out)
    if failures:
        raise RunFailed("\n".join(f"{run} failed:\n{text}" for run, text in failures.items()))
    return summaries


def _handle(store: Store, progress: Progress, failures: dict[str, str], spec: RunSpec, message: Message) -> None:
    """Save results, collect failures, and show how far the runs are."""
    if isinstance(message, Stage):
        progress.update(spec, message)
        return
    if isinstance(message, RunResult):
        store.save(message)
    else:
        failures[spec.name] = message
    progress.finish(spec)
