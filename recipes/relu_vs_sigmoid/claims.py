"""The paper's claims, each with the criterion by which a run decides it, its effect and the effect's interval."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from . import evidence
from .evidence import ACCURACY, ALIKE, CURVES, INACTIVE, OVERLAP, SHARE, SLOPE, Finding, NoLayers, NotTestable, Numbers
from .intervals import Estimate, Part
from .records import Records

__all__ = ["TESTS", "Claim", "Test", "claims", "together", "write"]

BOTH = ("mnist", "cifar10")


@dataclass(frozen=True)
class Claim:
    """A claim of the paper and what a run says about it: `status` is held, not_held, open or not_testable.

    `effect`, its `standard_error` and its 95 % `interval` by Student's t over the seeds are in the units that
    `criterion` names; with one seed there is no interval. `numbers` has the interval of each part of the claim. If the
    claim is not testable, there is no effect, and `numbers` gives the reason.
    """

    id: int
    text: str
    status: str
    criterion: str
    effect: float | None = None
    standard_error: float | None = None
    interval: tuple[float, float] | None = None
    numbers: Numbers = field(default_factory=dict)


@dataclass(frozen=True)
class Test:
    """A claim with the function that decides it; `about` names the paper's data sets to which it applies.

    `main` makes the first of the `parts` of a claim about nodes, for runs that have recorded the effect alone.
    """

    text: str
    criterion: str
    decide: Callable[[Records], Finding]
    about: tuple[str, ...] = BOTH
    main: Callable[[Estimate], Part] | None = None
    parts: int = 1


def claims(run: Records) -> list[Claim]:
    """Every claim, decided as far as the run allows."""
    return [_decide(number, test, run) for number, test in enumerate(TESTS, 1)]


def _decide(number: int, test: Test, run: Records) -> Claim:
    try:
        finding = test.decide(run)
    except NoLayers as reason:
        if test.main is None or number not in run.recorded:
            return _untestable(number, test, str(reason))
        parts = {"main effect, as recorded by the run": test.main(run.recorded[number]), **reason.parts}
        return _claim(number, test, parts, {"reason": _RECORDED} if len(parts) < test.parts else {})
    except NotTestable as reason:
        return _untestable(number, test, str(reason))
    return _claim(number, test, finding.parts, finding.numbers)


_RECORDED = "The run has recorded no interval of the claim's other parts."


def _claim(number: int, test: Test, parts: Mapping[str, Part], numbers: Numbers) -> Claim:
    """The claim that follows from its parts: open if some are unknown and none is refuted."""
    told = {"parts": {name: _told(part) for name, part in parts.items()}, **numbers}
    states = [part.status for part in parts.values()] + ["open"] * (test.parts - len(parts))
    effect = next(iter(parts.values())).effect
    return Claim(
        number, test.text, _all(states), test.criterion, effect.mean, effect.standard_error, effect.interval, told
    )


def _untestable(number: int, test: Test, reason: str) -> Claim:
    return Claim(number, test.text, "not_testable", test.criterion, numbers={"reason": reason})


def _told(part: Part) -> Numbers:
    return {"status": part.status, "effect": part.effect.mean, "interval": part.effect.interval}


def _all(states: Sequence[str]) -> str:
    """What follows from parts that must all hold, of those that are testable."""
    testable = [state for state in states if state != "not_testable"]
    return next((state for state in ("not_held", "open") if state in testable), "held" if testable else "not_testable")


def together(decided: Mapping[str, Sequence[Claim]]) -> list[Claim]:
    """Every claim over several runs, from those `decided` on each data set."""
    return [_over_all(test, {name: found[i] for name, found in decided.items()}) for i, test in enumerate(TESTS)]


def _over_all(test: Test, decided: Mapping[str, Claim]) -> Claim:
    """A claim over all the data sets that it is about; `numbers` has the claim on each."""
    own = {name: claim for name, claim in decided.items() if name in test.about} or decided
    status = _all([claim.status for claim in own.values()])
    numbers: Numbers = {
        name: {
            "status": claim.status,
            "effect": claim.effect,
            "standard_error": claim.standard_error,
            "interval": claim.interval,
            **claim.numbers,
        }
        for name, claim in own.items()
    }
    if status == "not_testable":
        numbers["reason"] = " ".join(dict.fromkeys(str(claim.numbers["reason"]) for claim in own.values()))
    return replace(next(claim for claim in own.values() if claim.status == status), numbers=numbers)


def write(found: Sequence[Claim], path: Path) -> None:
    """Write the claims as JSON."""
    path.write_text(json.dumps([asdict(claim) for claim in found], indent=2) + "\n")


def _above(margin: float) -> Callable[[Estimate], Part]:
    return lambda effect: Part(effect, margin=margin)


TESTS = (
    Test(
        "Training curves of ReLU and sigmoid networks are similar; ReLU validates better.",
        "Over pairs of networks that differ in the activation alone, averaged in each seed: the best validation "
        f"accuracy of ReLU is higher (effect, points; {ACCURACY} count as none), and the training accuracies of the "
        f"last epoch differ by at most {CURVES:g} point.",
        evidence.curves_alike,
        about=("mnist",),
    ),
    Test(
        "When wide enough, sigmoid networks without batch norm perform like ReLU networks.",
        f"At the largest width the gap in test accuracy (effect, points) is at most {ALIKE}.",
        evidence.wide_sigmoid,
    ),
    Test(
        "Sigmoid networks 200 wide improve with depth with batch norm and degrade without.",
        "The slope of test accuracy over depth is above 0 with batch norm (effect, points a layer) and below 0 without "
        f"({SLOPE} count as none).",
        evidence.sigmoid_and_depth,
        about=("mnist",),
    ),
    Test(
        "On CIFAR10 ReLU reliably beats sigmoid only with batch norm.",
        f"The gap in test accuracy is above 0 with batch norm (effect, points; {ACCURACY} count as none) and not above "
        "0 without.",
        evidence.relu_needs_norm,
        about=("cifar10",),
    ),
    Test(
        "On CIFAR10 both degrade with depth without batch norm and gain with it.",
        "For either activation the slope of test accuracy over depth is above 0 with batch norm (effect, points a "
        f"layer, of ReLU) and below 0 without ({SLOPE} count as none).",
        evidence.depth_needs_norm,
        about=("cifar10",),
    ),
    Test(
        "All networks fit the training set to about 100 %, except sigmoid 200 wide with 6 and 8 layers on CIFAR10.",
        "The lowest training accuracy in the last epoch of each seed's networks, without those excepted, is above 99 % "
        "(effect, percent).",
        evidence.all_fit,
    ),
    Test(
        "The best of all are wide ReLU networks with batch norm.",
        "Their test accuracy is above that of the next best kind (effect, points).",
        evidence.best_network,
    ),
    Test(
        "The second layer of trained sigmoid networks is less saturated; their last layer is near point distributions.",
        "The share of samples within 0.05 of 0 or 1 is lower in layer 2 than in every other layer (effect, share), and "
        f"the standard deviation within a class is lower in the last layer than in layer 2 ({SHARE} count as none).",
        evidence.second_layer,
        about=("mnist",),
        main=_above(SHARE),
        parts=2,
    ),
    Test(
        "Untrained sigmoid networks have medians near 0.5 in the first layer that coincide with depth; training "
        "saturates them.",
        "The medians are further from 0.5 trained than untrained (effect, mean over layers). Untrained, their standard "
        f"deviation over classes is lower in the last layer than in the first ({SHARE} count as none), and those of "
        "layer 1 are on average within 0.25 of 0.5.",
        evidence.untrained_sigmoid,
        about=("mnist",),
        main=_above(SHARE),
        parts=3,
    ),
    Test(
        "Deep layers of untrained ReLU networks overlap less than those of sigmoid networks.",
        f"The class overlap of the last layer is lower for ReLU (effect, overlap; {OVERLAP} count as none).",
        evidence.deep_relu_separates,
        about=("mnist",),
        main=_above(OVERLAP),
    ),
    Test(
        "In trained ReLU networks early layers are agnostic to the class and deep layers specialised.",
        f"The class overlap is lower in the last layer than in the first (effect, overlap; {OVERLAP} count as none).",
        evidence.deep_relu_specialises,
        about=("mnist",),
        main=_above(OVERLAP),
    ),
    Test(
        "Batch norm lowers the sparsity of trained ReLU networks and raises their accuracy.",
        f"Without batch norm more samples are inactive (effect, points, mean over layers; {INACTIVE:g} counts as "
        f"none), and with it the test accuracy is higher ({ACCURACY} points count as none).",
        evidence.norm_and_sparsity,
        main=_above(INACTIVE),
        parts=2,
    ),
    Test(
        "Networks that fit CIFAR10 badly look like untrained ones.",
        "The class overlap of the trained sigmoid network isn't below the untrained one's (effect, overlap; "
        f"{OVERLAP} count as none).",
        evidence.unfit_look_untrained,
        about=("cifar10",),
        main=lambda effect: Part(effect, "not above", margin=OVERLAP),
    ),
)
