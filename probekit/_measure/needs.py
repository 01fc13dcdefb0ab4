"""What metrics need of memory beside their samples, before any of them runs."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from probekit._measure.accumulator import call, leaders
from probekit.metrics import Spec, StreamingMetric

__all__ = ["available", "batch_bytes", "need", "need_of_nodes", "sharing", "state_bytes"]

_BATCH_BYTES = 5 * 8  # some temporaries in float64
_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


def need(metric: Any, spec: Any, samples: int, where: str) -> int:
    """The bytes that a metric takes beside its samples, for a spec, or a list of them for one that compares sites.

    They are what its method `memory` says. A streaming metric without one takes its state twice, since an update makes
    a new one, and `batch_bytes`; another is taken for one that takes no more than its samples do. `where` tells the
    site in the error of a metric that can't be measured there.
    """
    if _says(metric):
        return int(call(metric, where, metric.memory, spec, samples, asked="what memory it needs"))
    return 2 * state_bytes(metric, spec) if isinstance(metric, StreamingMetric) else 0


def need_of_nodes(metric: Any, spec: Spec, samples: int, where: str) -> Callable[[int], int]:
    """`need` as a function of the number of nodes, for a metric that takes blocks of nodes."""
    if _says(metric):
        return lambda nodes: need(metric, replace(spec, nodes=nodes), samples, where)
    # The axes of the states of such a metric are (class, ...) or (class, node, ...).
    one, two = (need(metric, replace(spec, nodes=nodes), samples, where) for nodes in (1, 2))
    return lambda nodes: one + (nodes - 1) * (two - one)


def batch_bytes(metrics: Sequence[Any]) -> int:
    """What updates make of each value of a batch, of metrics of which one at least doesn't say what it needs."""
    return _BATCH_BYTES if any(isinstance(each, StreamingMetric) and not _says(each) for each in metrics) else 0


def _says(metric: Any) -> bool:
    return callable(getattr(metric, "memory", None))


def sharing(metrics: Sequence[Any]) -> dict[str, list[Any]]:
    """The metrics that share a state, by the name of the one that keeps it."""
    keepers, found = leaders(metrics), dict[str, list[Any]]()
    for metric in metrics:
        found.setdefault(keepers[metric.name].name, []).append(metric)
    return found


def state_bytes(metric: Any, spec: Any) -> int:
    """The size of a streaming metric's state."""

    def of(device: str, nodes: int | None = None) -> int:
        def small(one: Spec) -> Spec:
            return replace(one, device=torch.device(device), nodes=nodes or one.nodes)

        state = metric.init(small(spec) if isinstance(spec, Spec) else [small(one) for one in spec])
        return sum(int(tensor.nbytes) for tensor in state.values())

    try:
        return of("meta")  # where tensors have a size and no memory
    except Exception:  # init asks for a tensor's value: it is called for few nodes
        pass
    try:
        one, two, three = (of("cpu", nodes) for nodes in (1, 2, 3))
    except Exception:  # what it refuses is said where it is called in earnest
        return 0
    most = (spec.nodes if isinstance(spec, Spec) else max(one.nodes for one in spec)) - 1
    return one + most * (two - one) + most * (most - 1) // 2 * (three - 2 * two + one)


def available(device: torch.device) -> int:
    """The bytes of memory that a device has for this process, used or not."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[1])
    limits = [int(text) for path in _LIMITS if (text := _read(path)).isdigit()]
    return min([os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"), *limits])


def _read(path: str) -> str:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return ""
