"""Metrics on the repeats of the samples of a task."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import cycle
from typing import Any, Protocol, TypeAlias

import numpy as np
import torch

from probekit._beats import current, in_turn, working
from probekit._measure.accumulator import Accumulator, call, finalized, leaders, state_from
from probekit._measure.grouping import Observations
from probekit._measure.resampling.draws import Draws
from probekit.metrics import Block, ColumnMetric, State, StreamingMetric, Variables
from probekit.metrics.block import Array, Codes
from probekit.metrics.protocol import Relabelling, StreamRelabelling

__all__ = ["Batches", "Columns", "Repeat", "redrawn", "relabelled", "streamed", "without_each"]

Batches: TypeAlias = Callable[[], Iterator[tuple[Any, Codes]]]  # values of whole rows, or a list of such, and labels


@dataclass(frozen=True)
class Columns:
    """All samples of a few nodes, `values` (node, sample), in the order of their classes but unsorted within them.

    `samples` are the numbers of the observations in that order, `codes` their classes.
    """

    values: Array
    samples: Codes
    codes: Codes
    classes: int

    @classmethod
    def of(cls, values: Array, rows: Observations) -> Columns:
        """Those of `values` as the grouping of the observations places them; a copy."""
        samples = np.argsort(rows.grouping.position)
        return cls(values.copy(), samples, rows.codes[samples], rows.labels.number)

    def shuffled(self, metric: ColumnMetric, draws: Draws, repeats: int, where: str) -> Iterator[Variables]:
        """The variables for each shuffle of the labels; by what the metric prepares, if it can."""
        compute: Callable[[Codes], Variables] = partial(self._relabelled, metric)
        if isinstance(metric, Relabelling):
            compute = call(metric, where, metric.relabelling, self.values, self.classes)
        for repeat in range(repeats):
            yield call(metric, where, compute, draws.labels(repeat)[self.samples])

    def redrawn(self, metric: ColumnMetric, draws: Draws, repeats: int, where: str) -> Iterator[Variables]:
        for repeat in range(repeats):
            counts = draws.counts(repeat)[self.samples]
            yield self._of_those(metric, np.repeat(np.arange(len(counts)), counts), where)

    def without_each(self, metric: ColumnMetric, blocks: Codes, where: str) -> Iterator[Variables]:
        of = blocks[self.samples]
        for block in range(int(blocks.max()) + 1):
            yield self._of_those(metric, np.flatnonzero(of != block), where)

    def _relabelled(self, metric: ColumnMetric, codes: Codes) -> Variables:
        order = np.argsort(codes.astype(np.min_scalar_type(self.classes)), kind="stable")
        return metric.compute(self._block(order, codes))

    def _of_those(self, metric: ColumnMetric, places: Codes, where: str) -> Variables:
        return call(metric, where, metric.compute, self._block(places, self.codes[places]))

    def _block(self, places: Codes, codes: Codes) -> Block:
        taken = torch.from_numpy(self.values).index_select(1, torch.from_numpy(places)).numpy()
        counts = np.bincount(codes, minlength=self.classes)
        return Block.sort(taken, np.concatenate([[0], np.cumsum(counts)]).astype(np.int64))


class Repeat(Protocol):
    """The samples as one repeat has them."""

    def of(self, x: Any, y: torch.Tensor, first: int) -> tuple[Any, torch.Tensor]:
        """Those that it has of a batch that begins with observation number `first`."""


@dataclass(frozen=True)
class _Relabelled:
    codes: Array

    def of(self, x: Any, y: torch.Tensor, first: int) -> tuple[Any, torch.Tensor]:
        return x, torch.from_numpy(self.codes[first : first + len(y)].astype(np.int64))


@dataclass(frozen=True)
class _Redrawn:
    counts: Array

    def of(self, x: Any, y: torch.Tensor, first: int) -> tuple[Any, torch.Tensor]:
        counts = torch.from_numpy(self.counts[first : first + len(y)].astype(np.int64))
        return _taken(x, y, torch.repeat_interleave(counts))


def relabelled(codes: Codes, classes: int) -> Repeat:
    return _Relabelled(codes.astype(np.min_scalar_type(classes)))


def redrawn(counts: Codes) -> Repeat:
    return _Redrawn(counts.astype(np.min_scalar_type(int(counts.max(initial=0)))))


def _taken(x: Any, y: torch.Tensor, places: torch.Tensor) -> tuple[Any, torch.Tensor]:
    taken = [each[places] for each in x] if isinstance(x, list) else x[places]
    return taken, y[places]


def streamed(
    metrics: Sequence[StreamingMetric], spec: Any, where: str, batches: Batches, repeats: Sequence[Repeat]
) -> Iterator[dict[str, Variables]]:
    """The variables of each repeat, by the metric's name, from one pass over the samples.

    Metrics that can add up all labellings at once do so. Where that loses digits, their repeats are made one by one in
    a second pass.
    """
    keepers, labellings = leaders(metrics), [each.codes for each in repeats if isinstance(each, _Relabelled)]
    sums = {
        keeper.name: call(keeper, where, keeper.relabelled, spec, len(repeats))
        for keeper in keepers.values()
        if isinstance(keeper, StreamRelabelling) and len(labellings) == len(repeats)
    }
    alone = [metric for metric in metrics if keepers[metric.name].name not in sums]
    found, first = _accumulators(alone, spec, where, repeats), 0
    for x, codes in batches():
        _update(found, repeats, x, codes, first)
        if sums:
            of_each = np.stack([each[first : first + len(codes)] for each in labellings])
            for name, each in sums.items():
                call(keepers[name], where, each.add, x, of_each)
        first += len(codes)
    states = {name: each.states() for name, each in sums.items() if each.exact}
    kept = [metric for metric in metrics if metric in alone or keepers[metric.name].name in states]
    others = [metric for metric in metrics if metric not in kept]
    again = _one_by_one(others, spec, where, batches, repeats) if others else cycle([dict[str, Variables]()])
    for number, more in zip(in_turn(range(len(repeats))), again, strict=False):
        those = {name: next(each) for name, each in states.items()} | (found[number].states if found else {})
        yield _variables(kept, those, where) | more


def _one_by_one(
    metrics: Sequence[StreamingMetric], spec: Any, where: str, batches: Batches, repeats: Sequence[Repeat]
) -> Iterator[dict[str, Variables]]:
    found, first = _accumulators(metrics, spec, where, repeats), 0
    for x, codes in batches():
        _update(found, repeats, x, codes, first)
        first += len(codes)
    for accumulator in in_turn(found):
        yield _variables(metrics, accumulator.states, where)


def _accumulators(
    metrics: Sequence[StreamingMetric], spec: Any, where: str, repeats: Sequence[Repeat]
) -> list[Accumulator]:
    return [Accumulator(metrics, spec, where) for _ in repeats] if metrics else []


def _update(found: Sequence[Accumulator], repeats: Sequence[Repeat], x: Any, codes: Codes, first: int) -> None:
    y = torch.from_numpy(codes)
    for each, accumulator in zip(repeats, found, strict=False):  # none where no metric needs it
        accumulator.update(*each.of(x, y, first))


def without_each(
    metrics: Sequence[StreamingMetric], spec: Any, where: str, batches: Batches, blocks: Codes
) -> Iterator[dict[str, Variables]]:
    """The variables of all samples, and then those without each of the blocks, from one pass.

    The state of all blocks but one is that of those before it, merged with that of those after it.
    """
    number, first = int(blocks.max()) + 1, 0
    found = [Accumulator(metrics, spec, where) for _ in range(number)]
    for x, codes in batches():
        y, of = torch.from_numpy(codes), torch.from_numpy(blocks[first : first + len(codes)])
        for block in of.unique().tolist():
            found[block].update(*_taken(x, y, torch.nonzero(of == block)[:, 0]))
        first += len(codes)
    empty, keepers = Accumulator(metrics, spec, where).states, leaders(metrics)

    def both(a: dict[str, State], b: dict[str, State]) -> dict[str, State]:
        return {name: state_from(keepers[name], where, "merge", a[name], b[name]) for name in a}

    after = [empty]
    for accumulator in reversed(found[1:]):
        after.append(both(accumulator.states, after[-1]))
    with working(current().of(1 / (number + 1))):
        of_all = _variables(metrics, both(found[0].states, after[-1]), where)
    yield of_all
    before = empty
    for accumulator in in_turn(found):
        yield _variables(metrics, both(before, after.pop()), where)
        before = both(before, accumulator.states)


def _variables(metrics: Sequence[StreamingMetric], states: dict[str, State], where: str) -> dict[str, Variables]:
    return {metric.name: variables for metric, variables in finalized(metrics, states, where)}
