"""Metrics of a model while it trains: one result with a dim ``step``."""

from __future__ import annotations

import inspect
import random
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from operator import index
from pathlib import Path
from typing import Any, Protocol, SupportsIndex

import numpy as np
import torch
import xarray as xr
from torch import nn

from probekit._measure.live import measure_live
from probekit._measure.metric_set import resolved
from probekit._results.steps import InMemory, OnDisk, Steps, differences, variables_of
from probekit._store.backend import backend_of
from probekit.errors import DataError, StoreError, check_kind
from probekit.metrics import Metric
from probekit.progress import silent

__all__ = ["Watch"]


class Scalars(Protocol):
    """The method of a TensorBoard SummaryWriter that a Watch calls."""

    def add_scalar(self, tag: str, scalar_value: float, global_step: int) -> object: ...


class Watch:
    """Measures `model` on `data` at chosen steps of its training, into one tree with a dim ``step``.

    Call it with the number of the step in the training loop, after the optimizer's step and before the next forward
    pass. Where the step is due it runs the model over the data, as `probekit.measure_live` does, and returns that
    step's tree, else None. The training is not disturbed: modes, buffers, gradients, hooks and the states of the random
    generators are as before. `results` holds all steps: ``watch.results["layers.0"]["sparsity"]`` has the dims
    (step, label, node).

    Dims whose lengths depend on the data, such as the atoms of a histogram, are as long as at the longest step, filled
    up with NaN or 0. Attributes that may differ between steps (`omitted`, `value_error`) are those of the last.

    Args:
        model: any torch module, such as the one that is trained; in training on several devices, the plain one and not
            its wrapper, on one process. Sharded models can't be watched.
        data: as for `probekit.measure_live`, but no iterator, which would be at its end after the first step; and no
            loader that the training reads from at the same time.
        metrics: as for `probekit.measure_live`.
        every: every so many steps, step 0 among them; or the steps, such as ``{0, 10, 100, 1000}``. For any other rule,
            ``if rule(step): watch(step)`` with ``every=1``.
        out: also write each step to this new zarr store (a folder, or a URL), which ``xarray.open_datatree`` opens also
            while it grows. A process that is killed, at any moment, leaves every step that was measured. Without it the
            steps are kept in memory.
        resume: go on with what lies at `out`, if anything does. The steps from the first on that is measured now are
            replaced: a training that resumes from a checkpoint repeats them.
        log: a TensorBoard SummaryWriter, or what has its ``add_scalar(tag, value, step)``. It is given each variable
            under ``probekit/<site>/<variable>``: a scalar as it is, of an array the mean of its values but NaN.
        **options: of `probekit.measure_live`: ``sites=``, ``exclude=``, ``reduce=``, ``mode=``, ``batch_size=``, …

    Raises:
        StoreError: something lies at `out` and `resume` wasn't asked for, or other sites, metrics or shapes do.
        DataError: a step that doesn't come after the last one, or nothing measured yet; and as for
            `probekit.measure_live`, such as for NaN, unless ``nan="omit"``.
        PluginError, SiteError, ModelError: as for `probekit.measure_live`.

    Example:
        >>> import torch, probekit as pk
        >>> model = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.ReLU(), torch.nn.Linear(3, 2))
        >>> x, y = torch.randn(100, 4), torch.arange(100) % 2
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> watch = pk.Watch(model, (x, y), "sparsity", every=10, sites="1")
        >>> for step in range(31):
        ...     optimizer.zero_grad()
        ...     torch.nn.functional.cross_entropy(model(x), y).backward()
        ...     optimizer.step()
        ...     tree = watch(step)
        >>> watch.results["1"]["sparsity"].sizes
        Frozen({'step': 4, 'label': 2, 'node': 3})
    """

    def __init__(
        self,
        model: nn.Module,
        data: Any,
        metrics: str | Metric | Sequence[str | Metric],
        *,
        every: int | Collection[int] = 100,
        out: str | Path | None = None,
        resume: bool = False,
        log: Scalars | None = None,
        **options: Any,
    ) -> None:
        quiet = {"progress": silent}  # the bars on the screen are the training's
        self._call = inspect.signature(measure_live).bind(model, data, resolved(metrics), **(quiet | options))
        if isinstance(data, Iterator):
            raise DataError(
                f"A {type(data).__name__} gives its batches once, and each step reads the data again. Give a "
                "Dataset, a DataLoader, tensors, or a list of batches."
            )
        if log is not None and not hasattr(log, "add_scalar"):
            raise DataError(f"log is a {type(log).__name__}, which has no add_scalar. Give a SummaryWriter.")
        self._data, self._log = data, log
        self._every = _checked(every)
        self._steps = _steps(out, resume)
        self._where = "" if out is None else f" in {out}"
        self._first: xr.DataTree | None = None  # what the other steps must be like
        self._last: int | None = None

    def __call__(self, step: int) -> xr.DataTree | None:
        """The tree of the step, measured now; None where it isn't due."""
        check_kind("step", step, SupportsIndex, "the number of a step")
        step = index(step)
        due = step % self._every == 0 if isinstance(self._every, int) else step in self._every
        return self._measure(step) if due else None

    @property
    def results(self) -> xr.DataTree:
        """All steps so far; with `out`, those that are committed, read when they are indexed."""
        tree = self._steps.tree()
        if tree is None:
            raise DataError("Nothing has been measured yet: call the watch with a step that is due.")
        return tree

    def _measure(self, step: int) -> xr.DataTree:
        if self._last is not None and step <= self._last:
            raise DataError(
                f"Step {step} doesn't come after step {self._last}, the last that was measured. Make a new Watch for a "
                "new training, with resume=True for one that goes back to a checkpoint.",
                arguments=("resume",),
            )
        with _random_as_before(self._data):
            tree = measure_live(*self._call.args, **self._call.kwargs)
        self._check(tree, step)
        self._steps.add(step, tree)
        self._last = step
        if self._log is not None:
            _write_scalars(self._log, tree, step)
        return tree

    def _check(self, tree: xr.DataTree, step: int) -> None:
        if self._first is None:
            before = self._steps.tree()
            self._first = tree if before is None else before
        found = differences(self._first, tree)
        if found:
            more = f"; and {len(found) - 3} more" if len(found) > 3 else ""
            raise StoreError(
                f"Step {step} doesn't fit the steps before it{self._where}: {'; '.join(found[:3])}{more}. "
                "Watch the same as before, or give another path (out=).",
                arguments=("out",),
            )


def _checked(every: int | Collection[int]) -> int | frozenset[int]:
    if isinstance(every, Collection) and not isinstance(every, str):
        for step in every:
            check_kind("every", step, SupportsIndex, "a number of steps from 1 on, or a collection of steps")
        return frozenset(map(index, every))
    if not hasattr(every, "__index__") or index(every) < 1:
        raise DataError(
            f"every is {every!r}; it is a number of steps from 1 on, or a collection of steps.", arguments=("every",)
        )
    return index(every)


def _steps(out: str | Path | None, resume: bool) -> Steps:
    if out is None:
        if resume:
            raise DataError("resume=True resumes what is at out=, and no out= was given.", arguments=("resume", "out"))
        return InMemory()
    backend = backend_of(out)
    if not resume and backend.exists():
        raise StoreError(
            f"{out} exists already. Resume it with resume=True, remove it, or give another path (out=).",
            arguments=("resume", "out"),
        )
    return OnDisk(backend)


@contextmanager
def _random_as_before(data: Any) -> Iterator[None]:
    """The states of all random generators afterwards as before, those of a loader among them.

    A loader draws from torch's even where it doesn't shuffle, and its data set may draw from any.
    """
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    sampler = getattr(data, "sampler", None)
    own = {getattr(each, "generator", None) for each in (data, sampler)} - {None}
    states = [(generator, generator.get_state()) for generator in own if isinstance(generator, torch.Generator)]
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002  # the user's code may use it
    try:
        with torch.random.fork_rng(devices=devices):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002
        for generator, state in states:
            generator.set_state(state)


def _write_scalars(log: Scalars, tree: xr.DataTree, step: int) -> None:
    for path, variable in variables_of(tree):
        values = np.asarray(variable.values, np.float64)
        defined = values[~np.isnan(values)]
        if defined.size:
            log.add_scalar(f"probekit/{path}", float(defined.mean()), step)
