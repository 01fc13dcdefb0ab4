"""Parameters of metrics: what isn't of the declared type, or beyond a limit, is named and refused."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, fields
from fractions import Fraction
from typing import Any, ClassVar

import numpy as np
import pytest

from probekit import metrics
from probekit.errors import PluginError
from probekit.metrics.limits import Limits, above, at_least, share
from probekit.metrics.protocol import Parameters

EXPORTED = [getattr(metrics, name) for name in metrics.__all__]
CLASSES = [each for each in EXPORTED if isinstance(each, type) and issubclass(each, Parameters)]
# Values of each declared type, written as in the classes, that people hand over by mistake.
WRONG: dict[str, list[Any]] = {
    "bool": [None, "no", 1, 0.0],
    "bool | None": ["yes", 0],
    "int": [None, "5", 5.0, math.nan, True, [5]],
    "int | None": ["5", 5.0, math.nan, True],
    "float": [None, "0.5", math.nan, math.inf, 10**400, True, (0.5,), 1j],
    "float | None": ["0.5", math.nan, -math.inf, False],
    "str | None": [3, ["label"], b"label"],
    "tuple[float, float] | None": [0, (0,), (0, 1, 2), "01", (0, math.nan), (None, 1), np.array([0, 1])],
}
BELOW = {
    "seed": -1,
    "min_count": 0,
    "bins": 0,
    "size": 1,
    "shuffles": -1,
    "folds": 1,
    "neighbours": 0,
    "k": 0,
    "ddof": -1,
}
BELOW |= {"max_nodes": 0, "references": 1, "batch": -1, "held_out": 0, "alpha": 0, "t": 0.0, "epsilon": 0, "tau": -1e-9}
BELOW |= {"variance": 0, "discard": 1, "delta": -0.1}
CASES = [
    (metric, field.name, value)
    for metric in CLASSES
    for field in fields(metric)
    if field.init
    for value in [*WRONG.get(str(field.type), []), *([BELOW[field.name]] if field.name in BELOW else [])]
]


@pytest.mark.parametrize(("metric", "name", "value"), CASES)
def test_a_wrong_value_is_named(metric: type, name: str, value: object) -> None:
    if (metric, name, value) == (metrics.KNNAccuracy, "size", 1):
        value = 0  # of one sample the accuracy is 0
    with pytest.raises(PluginError) as found:
        metric(**{name: value})
    said = str(found.value)
    assert said.startswith(f"{metric.__name__}({name}=")
    assert f": {name} must be " in said
    assert len(said) < 250


def test_every_parameter_is_checked() -> None:
    seen = {(metric, name) for metric, name, _ in CASES}
    others = {field.name for metric in CLASSES for field in fields(metric) if field.init} - {name for _, name in seen}
    assert others == {"edges", "method", "distance", "dissimilarity", "null", "q", "head", "weights"}


@pytest.mark.parametrize(
    ("metric", "given", "words"),
    [
        (metrics.Histogram, {"edges": "masses"}, "edges must be 'mass' or 'width'. Near: 'mass'."),
        (metrics.Overlap, {"null": "permuted"}, "null must be 'permute', or None. Near: 'permute'."),
        (metrics.KNNAccuracy, {"distance": "l2"}, "distance must be 'euclidean' or 'cosine'."),
        (
            metrics.RSA,
            {"dissimilarity": None},
            "dissimilarity must be 'correlation', 'euclidean', 'crossvalidated' or 'crossnobis'.",
        ),
        (metrics.TwoNN, {"discard": 1.0}, "discard must be a finite number of at least 0 and below 1."),
        (metrics.SVCCA, {"variance": 1.01}, "variance must be a finite number above 0 and at most 1."),
        (metrics.Saturation, {"bounds": 1}, "bounds must be a tuple (a number, a number), or None."),
        (
            metrics.LinearProbe,
            {"alpha": "1", "folds": 1},
            "alpha must be a finite number above 0, or None. folds must be a whole number of at least 2, or None.",
        ),
    ],
)
def test_the_message_says_what_it_may_be(metric: type, given: dict[str, Any], words: str) -> None:
    with pytest.raises(PluginError) as found:
        metric(**given)
    asked = ", ".join(f"{name}={value!r}" for name, value in given.items())
    assert str(found.value) == f"{metric.__name__}({asked}): {words}"


def test_numbers_of_any_kind_become_those_of_python() -> None:
    found = metrics.AUROC(np.int64(3), np.bool_(True))
    assert found == metrics.AUROC(3, True)
    assert json.dumps(found.parameters) == '{"min_count": 3, "pairs": true}'
    for value in (1, np.float32(1), Fraction(1)):
        assert type(metrics.Sparsity(value).threshold) is float
    assert metrics.Saturation(bounds=[0, np.inf]).bounds == (0.0, math.inf)


@dataclass(frozen=True)
class Someones(Parameters):
    """A metric of someone else, with a field of a type that isn't checked."""

    weights: list[float]
    part: float = 0.5
    whole: float = 1.0
    limits: ClassVar[Limits] = {"part": share(), "whole": share(zero=True, one=True)}
    name: ClassVar[str] = "someones"


def test_metrics_of_others_have_limits_too() -> None:
    assert Someones([1.0], 0.1, 1).parameters == {"weights": [1.0], "part": 0.1, "whole": 1.0}
    with pytest.raises(PluginError, match=r"Someones\(part=1, whole=2\): part must be .* between 0 and 1\. whole .*"):
        Someones([1.0], 1, 2)

    class Unknown:
        pass

    @dataclass(frozen=True)
    class Local(Parameters):
        part: Unknown
        number: int = 0

    assert Local(Unknown(), 2.5).number == 2.5  # the name of a type in a function can't be looked up


def test_limits_hold_at_their_ends() -> None:
    assert [at_least(2).holds(value) for value in (1, 2, 3)] == [False, True, True]
    assert [above(0).holds(value) for value in (-1, 0, 1e-300)] == [False, False, True]
    for zero in (False, True):
        for one in (False, True):
            limit = share(zero=zero, one=one)
            assert [limit.holds(value) for value in (-0.1, 0, 0.5, 1, 1.1)] == [False, zero, True, one, False]
