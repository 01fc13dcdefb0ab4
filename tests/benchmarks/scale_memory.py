"""The peak memory of each metric beside `memory`: ``python tests/benchmarks/scale_memory.py``.

Each metric is measured in a process of its own, on stores that are larger than `memory`, or have so many nodes,
classes or sites that its states and tables are. A metric that needs more than `memory` is given what it asks for. The
peak is that of the process, beyond what it held before it measured and the results.
"""

from __future__ import annotations

import argparse
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path

from harness import Figure, Row, Table, alone, forked
from scale import PEAK, Data, ours_of, written

from probekit import plugins
from probekit.errors import ProbekitError


@dataclass(frozen=True)
class Case:
    """A store, the `memory` that binds there, and the metrics that are measured; those of `rest` for none."""

    data: Data
    memory: str
    metrics: tuple[str, ...] = ()


OF_NODES = (
    *("coactivation", "node_correlation", "effective_rank", "participation_ratio", "rankme", "stable_rank"),
    *("linear_probe", "ridge_probe"),
)
OF_SITES = ("cka", "rsa", "procrustes", "svcca", "pwcca")
CASES = {
    "samples": Case(Data((2048,), 60_000, 10), "128MiB"),
    "nodes": Case(Data((2048,), 12_000, 10), "128MiB", tuple(name for name in OF_NODES if name != "linear_probe")),
    "few samples": Case(Data((16_384,), 2_000, 10), "2GiB", ("effective_rank",)),
    "probe": Case(Data((1000,), 20_000, 10), "64MiB", ("linear_probe", "linear_probe:method='lda'", "correlation")),
    "classes": Case(
        Data((512,), 50_000, 1_000),
        "64MiB",
        (
            *("auroc", "ks", "wasserstein", "dprime", "fisher", "overlap", "mutual_information", "selectivity", "std"),
            *("neural_collapse", "cdnv", "silhouette", "separability", "knn_accuracy", "rsa", "median", "kurtosis"),
            *("wasserstein:pairs=True", "dprime:pairs=True", "auroc:pairs=True"),
        ),
    ),
    "sites": Case(Data((800,), 4_000, 10, 8), "128MiB", OF_SITES),
    "many sites": Case(Data((1024,), 4_000, 10, 24), "3GiB", ("cka",)),
    "maps": Case(Data((64, 14, 14), 4_000, 10), "64MiB", ("mean", "median", "sparsity", "auroc", "effective_rank")),
}


def measure(options: argparse.Namespace) -> list[Table]:
    """The peak memory of each metric beside `memory`."""
    return [table(name, options) for name in CASES if options.only in (None, name)]


def table(name: str, options: argparse.Namespace) -> Table:
    case = CASES[name]
    data = case.data.small if options.quick else case.data
    found = Table(f"{name}: {data}, memory={case.memory}")
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "acts.zarr")
        forked(written, path, data)
        for metric in case.metrics or rest():
            if not options.metrics or metric in options.metrics:
                memory, ours = forked(measured, path, metric, case.memory)
                figure = Figure(ours["peak"], f"peak ÷ memory={memory}", None if options.quick else PEAK)
                found.add(Row(metric, [ours["seconds"]], cpu=ours["cpu"], figures=[figure]))
    return found


def rest() -> list[str]:
    """The metrics that are registered, but for those of all pairs of nodes and of sites."""
    return [name for name in plugins.find(plugins.METRICS) if name not in (*OF_NODES, *OF_SITES)]


def measured(path: str, metric: str, memory: str) -> tuple[str, dict[str, float]]:
    """The memory that a metric is given: what it asks for, if that is more than `memory`; and what `ours_of` says."""
    target = "age" if metric in ("correlation", "ridge_probe") else None
    try:
        return memory, ours_of(path, [metric], memory, target)
    except ProbekitError as error:
        asked = re.search("Give memory='(.*?)'", str(error))
        if asked is None:
            raise
        return asked[1], ours_of(path, [metric], asked[1], target)


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--only", choices=CASES, help="run one case")
    parser.add_argument("--metrics", nargs="*", help="measure these alone")


if __name__ == "__main__":
    alone(measure, options)
