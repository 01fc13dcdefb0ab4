"""The metrics of one measurement: from names and objects, and by what they are given."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, fields, is_dataclass
from functools import cached_property

import probekit.metrics
from probekit import plugins
from probekit._measure.accumulator import scope_of
from probekit.errors import PluginError
from probekit.metrics import ColumnMetric, Headline, Metric, SampleMetric, StreamingMetric
from probekit.metrics.parameters import with_parameters

__all__ = ["MetricSet", "compares_classes", "needs_target", "resolved"]


@dataclass(frozen=True)
class MetricSet:
    """The metrics of a measurement by what they are given.

    One that can add up over batches, too, is given all samples, since it is exact, or gives more, by these; but not
    where samples come once (`live`).
    """

    metrics: Sequence[Metric]
    live: bool = False

    @cached_property
    def columns(self) -> list[ColumnMetric]:
        return [metric for metric in self.metrics if isinstance(metric, ColumnMetric) and not self._adds_up(metric)]

    @cached_property
    def samples(self) -> list[SampleMetric]:
        """Those that read the samples of one site."""
        return [metric for metric in self._reading if scope_of(metric) != "sites"]

    @cached_property
    def comparing(self) -> list[SampleMetric]:
        """Those that read the samples of all sites."""
        return [metric for metric in self._reading if scope_of(metric) == "sites"]

    @property
    def of_sites(self) -> list[Metric]:
        """All that compare sites."""
        return [*self.streaming("sites"), *self.comparing]

    @cached_property
    def _reading(self) -> list[SampleMetric]:
        return [metric for metric in self.metrics if isinstance(metric, SampleMetric) and not self._adds_up(metric)]

    def streaming(self, *scopes: str) -> list[StreamingMetric]:
        return [metric for metric in self._streaming if scope_of(metric) in scopes]

    @property
    def of_blocks(self) -> list[StreamingMetric]:
        """Those that add up over blocks of nodes. Where others see whole rows, these go with them."""
        return [] if self.streaming("site") else self.streaming("node")

    @cached_property
    def _streaming(self) -> list[StreamingMetric]:
        return [m for m in self.metrics if isinstance(m, StreamingMetric) and self._adds_up(m)]

    def _adds_up(self, metric: Metric) -> bool:
        return isinstance(metric, StreamingMetric) and (
            self.live or not isinstance(metric, ColumnMetric | SampleMetric)
        )


def resolved(metrics: str | Metric | Sequence[str | Metric]) -> list[Metric]:
    """The metrics that are meant by names and objects, each once.

    Raises PluginError for what is no metric, and for one given twice.
    """
    given = metrics if isinstance(metrics, Sequence) and not isinstance(metrics, str) else [metrics]
    found = [_metric(one) for one in given]
    if not found:
        raise PluginError("No metric was given. Name at least one; `probekit metrics` lists them.")
    twice = [name for name, count in Counter(metric.name for metric in found).items() if count > 1]
    if twice:
        raise PluginError(f"The metric {twice[0]!r} was given twice. Measure its variants in separate calls.")
    return found


def compares_classes(metric: Metric) -> bool:
    """Whether a metric's headline needs two classes."""
    headline: Headline | None = getattr(metric, "headline", None)
    return headline is not None and headline.classes > 1


def needs_target(metric: Metric) -> bool:
    """Whether a metric needs a number for each sample."""
    return bool(getattr(metric, "needs_target", False))


def _metric(given: object) -> Metric:
    found = _named(given) if isinstance(given, str) else given
    found = found() if isinstance(found, type) else found
    if not isinstance(found, StreamingMetric | ColumnMetric | SampleMetric):
        raise PluginError(
            f"{given!r} is not a metric. Give a name, a function under @pk.metric, or an object with name, version, "
            "parameters and either compute(block), compute_samples(samples), or init, update, merge and finalize."
        )
    _check_attributes(found)
    return found


def _check_attributes(metric: Metric) -> None:
    """Raise PluginError, addressed to the metric's author, for an attribute that results can't be written with."""
    name, version, headline = metric.name, metric.version, getattr(metric, "headline", None)
    if not isinstance(name, str) or not name or "/" in name or name.split() != [name]:
        fault = f"The metric {metric!r} has the name {name!r}; it is a word without blanks and '/'."
    elif not isinstance(version, int) or isinstance(version, bool):
        fault = f"The metric {name!r} has the version {version!r}; it is a whole number, such as 1."
    elif not isinstance(metric.parameters, Mapping):
        fault = (
            f"The metric {name!r} has the parameters {metric.parameters!r}; they are a mapping of their names to their "
            "values, {} where there are none."
        )
    elif headline is not None and not isinstance(headline, Headline):
        fault = (
            f"The metric {name!r} has the headline {headline!r}; it is a pk.metrics.Headline, such as "
            f"Headline({name!r}, 'mean', 'what a large value says'), or None."
        )
    else:
        return
    raise PluginError(f"{fault} The metric's author has to fix this.")


def _check_unnamed(name: str) -> None:
    """Raise PluginError for one of our metrics that a name can't stand for, since nothing else says a parameter."""
    for kind in (getattr(probekit.metrics, exported) for exported in probekit.metrics.__all__):
        if not (isinstance(kind, type) and is_dataclass(kind)):
            continue
        if name in (kind.__name__, getattr(kind, "name", None)):
            missing = [f"{field.name}=…" for field in fields(kind) if field.init and field.default is MISSING]
            if missing:
                raise PluginError(
                    f"The metric {name!r} can't be asked for by its name, which says nothing of its parameters. From "
                    f"Python, give pk.metrics.{kind.__name__}({', '.join(missing)})."
                )


def _named(given: str) -> object:
    """The metric that is registered under a name, with the parameters that follow its colon, if any."""
    name, colon, parameters = given.partition(":")
    if "," in name:
        each = name.split(",")
        raise PluginError(
            f"{given!r} is several metrics in one name. Give a list, {each!r}, or on the command line an -m for each."
        )
    _check_unnamed(name)
    found: object = plugins.load(plugins.METRICS, name)
    return with_parameters(found, name, parameters) if colon else found
