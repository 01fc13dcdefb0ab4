"""What to look at first in a metric's results, and how to read it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from probekit.errors import PluginError, check_choice, check_kind

__all__ = ["Headline"]


@dataclass(frozen=True)
class Headline:
    """The one number per site that says most of what a metric found, and how to read it.

    A metric declares it as its class attribute ``headline``. It is recorded with the results, so `probekit.summary`,
    figures and reports know it without the metric.

    Args:
        variable: the name of one of the metric's variables, one that the metric always gives.
        over_nodes: how the values of a site's nodes become one; None for a variable without the dim `node`. Where
            dims other than ``node`` are left, such as ``label``, their mean follows: each class weighs the same.
        large: what a large value says, in plain words.
        neutral: the value that says nothing, such as 0, ½ or 1; None where there is no such value.
        beside: the name of a variable that belongs beside this one, such as a chance level or a null; None for none.
            It may be one that the metric gives for some parameters only.
        classes: the fewest classes that the metric compares; 1 where it doesn't compare them.
        missing: why values may be NaN and what to do then, as a clause; empty where they never are.
        otherwise: the name of a metric that says much the same where this one has no values; empty for none.
        smallest: whether small values are the telling ones, as those of an overlap. `probekit.top` looks for them.

    Raises PluginError for another `over_nodes` than these, and where names and words aren't strings.

    >>> from probekit.metrics import LinearProbe
    >>> LinearProbe.headline.beside
    'linear_probe_chance'
    """

    variable: str
    over_nodes: Literal["mean", "median", "max", "sum"] | None
    large: str
    neutral: float | None = None
    beside: str | None = None
    classes: int = 1
    missing: str = ""
    otherwise: str = ""
    smallest: bool = False

    def __post_init__(self) -> None:
        check_kind("The variable of a headline", self.variable, str, "the name of a variable", PluginError)
        said = f"of the headline {self.variable!r}"
        check_choice(f"over_nodes {said}", self.over_nodes, (None, "mean", "median", "max", "sum"), PluginError)
        check_choice(f"smallest {said}", self.smallest, (True, False), PluginError)
        check_kind(f"large {said}", self.large, str, "what a large value says, in words", PluginError)
        check_kind(f"otherwise {said}", self.otherwise, str, "the name of a metric, or nothing", PluginError)
        check_kind(f"beside {said}", self.beside, str | None, "the name of a variable, or None", PluginError)
