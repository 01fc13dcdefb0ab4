"""The laws of the metric protocol as one decorator for pytest."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from probekit._measure.metric_set import resolved
from probekit.errors import PluginError, near
from probekit.metrics import Metric
from probekit.testing import declared, live, outcomes, states
from probekit.testing.law import ConformanceError, Law
from probekit.testing.processes import Processes

__all__ = ["Check", "checks", "conformance"]

F = TypeVar("F", bound=Callable[..., Any])

LAWS = (
    declared.says_what_it_is,
    declared.says_what_it_needs,
    declared.declared_dims,
    declared.says_what_to_look_at,
    declared.stays_in_its_ranges,
    declared.goes_to_other_processes,
    outcomes.arguments_unchanged,
    outcomes.class_permutation,
    outcomes.node_subset,
    outcomes.missing_class,
    outcomes.dead_nodes,
    outcomes.one_sample,
    outcomes.one_class,
    outcomes.infinities_stay_where_they_are,
    outcomes.precision,
    states.any_split,
    states.any_merge_order,
    states.merge_with_nothing,
    states.finalize_twice,
    states.saved_state,
    states.state_shape,
    states.state_of_its_own,
    states.new_class,
    states.no_autograd_graph,
    live.live_and_store,
)


@dataclass(frozen=True)
class Check:
    """One law for one metric: calling it raises `ConformanceError` if the metric breaks the law.

    `name` joins the names of the metric and the law, as in ``rms-any split``; `law` has a `name` and a `statement`.
    """

    name: str
    metric: Metric
    law: Law

    def __call__(self) -> None:
        self.law(self.metric)


def checks(*metrics: Any) -> list[Check]:
    """A check for each of the metrics and each law of the metric protocol that applies to it; pytest isn't needed.

    Args:
        metrics: instances, classes that need no parameters, functions under ``@pk.metric``. One metric may appear in
            several variants.

    Raises:
        PluginError: an argument isn't a metric, or there is none.

    >>> from probekit.metrics import median
    >>> [check.name for check in checks(median)][:2]
    ['median-says what it is', 'median-says what it needs']
    """
    found = [resolved(metric)[0] for metric in metrics]
    if not found:
        raise PluginError("There is no metric to check: give at least one.")
    laws = (*LAWS, Processes(found).law)
    return [
        Check(f"{name}-{law.name}", metric, law)
        for name, metric in zip(_names(found), found, strict=True)
        for law in laws
        if law.applies(metric)
    ]


def conformance(*metrics: Any, except_for: Mapping[str, str] | None = None) -> Callable[[F], F]:
    """A decorator that repeats a test for each law of the metric protocol and each of the metrics.

    The test takes the argument `check` and calls it. If a metric breaks a law, the test fails with a message to the
    metric's author: the law, the samples, the result, and how to mend the metric. Only the laws that apply to a
    metric's kind and scope are checked. ``pytest -v`` lists them: ``test_rms[rms-any split]``.

    Args:
        metrics: as for `checks`.
        except_for: the names of laws that the metrics break on purpose, each with the reason. Their tests are expected
            to fail; a test that passes counts as a failure.

    Raises:
        PluginError: pytest isn't installed, an argument isn't a metric, or no law has such a name.

    Example:
        >>> import probekit as pk
        >>> from probekit.testing import conformance
        >>> @conformance(pk.metrics.Std(), pk.metrics.Std(ddof=1))
        ... def test_std(check):
        ...     check()
    """
    try:
        import pytest
    except ImportError:
        raise PluginError(
            "probekit.testing.conformance creates tests for pytest, which isn't installed. Install it: "
            "`pip install pytest`."
        ) from None
    found, excused = checks(*metrics), dict(except_for or {})
    _require_laws(excused, found)

    def marks(law: Law) -> list[Any]:
        reason = excused.get(law.name)
        return [pytest.mark.xfail(reason=reason, raises=ConformanceError, strict=True)] if reason else []

    return pytest.mark.parametrize("check", [pytest.param(each, id=each.name, marks=marks(each.law)) for each in found])


def _require_laws(excused: Mapping[str, str], found: Sequence[Check]) -> None:
    """Raise PluginError for an excused name that isn't a law's, or has no reason."""
    known = list(dict.fromkeys(check.law.name for check in found))
    for name, reason in excused.items():
        if name not in known or not reason:
            raise PluginError(
                f"except_for={{{name!r}: {reason!r}}}: give laws that apply to the metric, each with a reason."
                f"{near(name, known)} The laws are {', '.join(map(repr, known))}."
            )


def _names(metrics: Sequence[Metric]) -> list[str]:
    """The names of the metrics; where several have the same name, with the parameters in which they differ."""
    names = []
    for metric in metrics:
        alike = [other for other in metrics if other.name == metric.name]
        differing = [
            f"{key}={value}"
            for key, value in metric.parameters.items()
            if any(repr(other.parameters.get(key)) != repr(value) for other in alike)
        ]
        names.append(":".join(filter(None, [metric.name, ",".join(differing)])))
    return names
