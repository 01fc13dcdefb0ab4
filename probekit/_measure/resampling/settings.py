"""What a measurement is asked of nulls and intervals."""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Integral, Real

from probekit._measure.accumulator import scope_of
from probekit._measure.metric_set import compares_classes
from probekit.errors import DataError, PluginError, check_choice, check_kind
from probekit.metrics import Metric, SampleMetric
from probekit.metrics.order import OrderMetric
from probekit.metrics.protocol import Relabelling, StreamRelabelling

__all__ = ["CI", "FORMULA", "NULLS", "Resampling", "check_draws"]

NULLS = (None, "permute")
CI = (None, "bootstrap", "jackknife")
FORMULA = "formula"  # a metric's own way, without repeats
_FEWEST = 20  # shuffles for which there is a p-value
_OF_UNITS = 10  # shuffles whose mean says about what chance gives where rows of a unit are alike


def check_draws(seed: int, confidence: float) -> None:
    """Raise DataError unless `seed` is one, and `confidence` a share between 0 and 1."""
    check_kind("seed", seed, Integral, "an integer")
    check_kind("confidence", confidence, Real, "a share such as 0.95")
    if seed < 0:
        raise DataError(f"seed is {seed}; it can't be below 0.", arguments=("seed",))
    if not 0 < confidence < 1:
        percent = f" For {confidence:g} %, give {confidence / 100:g}." if 1 < confidence < 100 else ""
        raise DataError(f"confidence is {confidence}; it lies between 0 and 1.{percent}", arguments=("confidence",))


@dataclass(frozen=True)
class Resampling:
    """Which null and which intervals are asked for, with how many repeats, and by which seed.

    Labels are shuffled among the rows that have the same value in the column `within`; the rows that have the same in
    the column `together` keep one label and are drawn together.
    """

    null: str | None = None
    ci: str | None = None
    repeats: int = 200
    seed: int = 0
    confidence: float = 0.95
    within: str | None = None
    together: str | None = None

    def __post_init__(self) -> None:
        check_choice("null", self.null, NULLS)
        check_choice("ci", self.ci, CI)
        check_kind("repeats", self.repeats, Integral, "a number of shuffles or draws")
        for name, column in (("within", self.within), ("together", self.together)):
            check_kind(name, column, (str, type(None)), "the name of one column, or None")
        if self.repeats < _FEWEST:
            raise DataError(
                f"repeats is {self.repeats}; a p-value or an interval needs at least {_FEWEST}, and 200 is usual.",
                arguments=("repeats",),
            )
        check_draws(self.seed, self.confidence)
        if self.within is not None and not (self.null or self.ci):
            raise DataError(
                f"within is {self.within!r}, but nothing is shuffled or drawn: ask for null='permute' or a ci.",
                arguments=("within",),
            )

    def shuffles(self, metric: Metric, *, several: bool) -> int:
        """How often the labels are shuffled for a metric: as asked for all, or as its own `null_repeats` says.

        Where a unit has `several` rows, what is corrected for few of them at a node is too large. A few shuffles of the
        units then show by how much, for metrics that have a fast way to shuffle.
        """
        if self.null:
            return self.repeats
        own = int(getattr(metric, "null_repeats", 0))
        return max(own, _OF_UNITS) if several and _corrects_rows(metric) else own

    def draws(self, metric: Metric) -> int:
        """How often samples are drawn or left out for a metric's intervals."""
        return 0 if self.interval(metric) in (None, FORMULA) else self.repeats

    def interval(self, metric: Metric) -> str | None:
        """How the intervals of a metric are found: as its own `interval` says, else as asked; None if it has none.

        A sample that is drawn twice would stand among the training and the test samples of a probe, and would be its
        own neighbour. Where a metric reads whole samples or compares sites, blocks of them are left out instead. A
        median or a quantile hardly moves without a block, so samples are drawn for these.
        """
        usual = self.ci
        if isinstance(metric, SampleMetric) or scope_of(metric) == "sites":
            usual = "jackknife"
        elif isinstance(metric, OrderMetric):
            usual = "bootstrap"
        found: str | None = getattr(metric, "interval", usual)
        if found not in (*CI, FORMULA) or (found == FORMULA and not callable(getattr(metric, "intervals", None))):
            raise PluginError(
                f"The metric {metric.name!r} has the interval {found!r}; it is 'bootstrap', 'jackknife', 'formula' if "
                "it has a method intervals, or None for a metric without intervals. The metric's author has to fix "
                "this."
            )
        return found if self.ci else None


def _corrects_rows(metric: Metric) -> bool:
    """Whether what few rows add to the difference of classes is taken off, and shuffles are fast."""
    fast = isinstance(metric, Relabelling | StreamRelabelling) and not isinstance(metric, SampleMetric)
    return fast and compares_classes(metric) and bool(getattr(metric, "corrected", False))
