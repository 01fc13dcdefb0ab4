"""The paper's claims, each with the criterion by which a run decides it, its effect and its uncertainty."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from . import evidence
from .evidence import ERRORS, Finding, NotTestable, Numbers, mean
from .study import Study

__all__ = ["TESTS", "Claim", "Test", "claims", "together", "write"]

BOTH = ("mnist", "cifar10")


@dataclass(frozen=True)
class Claim:
    """A claim of the paper and what this run says about it: `status` is held, not_held or not_testable.

    `effect` and its `standard_error` over seeds are in the units that `criterion` names. Both are None if the claim is
    not testable; `numbers` then gives the reason.
    """

    id: int
    text: str
    status: str
    criterion: str
    effect: float | None = None
    standard_error: float | None = None
    numbers: Numbers = field(default_factory=dict)


@dataclass(frozen=True)
class Test:
    """A claim with the function that decides it; `about` names the paper's data sets to which it applies."""

    text: str
    criterion: str
    decide: Callable[[Study], Finding]
    about: tuple[str, ...] = BOTH


def claims(study: Study) -> list[Claim]:
    """Every claim, decided as far as the run allows."""
    return [_decide(number, test, study) for number, test in enumerate(TESTS, 1)]


def _decide(number: int, test: Test, study: Study) -> Claim:
    try:
        finding = test.decide(study)
    except NotTestable as reason:
        return Claim(number, test.text, "not_testable", test.criterion, numbers={"reason": str(reason)})
    effect, error = mean(finding.values)
    status = "held" if finding.held else "not_held"
    return Claim(number, test.text, status, test.criterion, effect, error, finding.numbers)


def together(decided: Mapping[str, Sequence[Claim]]) -> list[Claim]:
    """Every claim over several runs, from those `decided` on each data set."""
    return [_over_all(test, {name: found[i] for name, found in decided.items()}) for i, test in enumerate(TESTS)]


def _over_all(test: Test, decided: Mapping[str, Claim]) -> Claim:
    """A claim over all the data sets that it is about; `numbers` has the claim on each."""
    own = {name: claim for name, claim in decided.items() if name in test.about} or decided
    testable = [claim for claim in own.values() if claim.status != "not_testable"]
    deciding = [claim for claim in testable if claim.status == "not_held"] or testable or list(own.values())
    numbers: Numbers = {
        name: {
            "status": claim.status,
            "effect": claim.effect,
            "standard_error": claim.standard_error,
            **claim.numbers,
        }
        for name, claim in own.items()
    }
    if not testable:
        numbers["reason"] = " ".join(dict.fromkeys(str(claim.numbers["reason"]) for claim in own.values()))
    return replace(deciding[0], numbers=numbers)


def write(found: Sequence[Claim], path: Path) -> None:
    """Write the claims as JSON."""
    path.write_text(json.dumps([asdict(claim) for claim in found], indent=2) + "\n")


BEYOND = f"by more than {ERRORS} standard errors"

TESTS = (
    Test(
        "Training curves of ReLU and sigmoid networks are similar; ReLU validates better.",
        "Over pairs of networks that differ in the activation alone: the best validation accuracy of ReLU is higher "
        f"{BEYOND} (effect, points), and the mean training accuracies of the last epoch differ by less than a point.",
        evidence.curves_alike,
        about=("mnist",),
    ),
    Test(
        "When wide enough, sigmoid networks without batch norm perform like ReLU networks.",
        "At the largest width the mean gap in test accuracy (effect, points) is below half a point or "
        f"{ERRORS} standard errors.",
        evidence.wide_sigmoid,
    ),
    Test(
        "Sigmoid networks 200 wide improve with depth with batch norm and degrade without.",
        f"The slope of test accuracy over depth is above 0 with batch norm and below 0 without, each {BEYOND} "
        "(effect: the difference of the slopes, points a layer).",
        evidence.sigmoid_and_depth,
        about=("mnist",),
    ),
    Test(
        "On CIFAR10 ReLU reliably beats sigmoid only with batch norm.",
        f"The gap in test accuracy (effect, points) is above 0 {BEYOND} with batch norm and not without.",
        evidence.relu_needs_norm,
        about=("cifar10",),
    ),
    Test(
        "On CIFAR10 both degrade with depth without batch norm and gain with it.",
        f"The slope of test accuracy over depth is above 0 with batch norm (effect, points a layer) and below 0 "
        f"without, each {BEYOND}.",
        evidence.depth_needs_norm,
        about=("cifar10",),
    ),
    Test(
        "All networks fit the training set to about 100 %, except sigmoid 200 wide with 6 and 8 layers on CIFAR10.",
        "The lowest training accuracy in the last epoch, of the networks not excepted, is at least 99 % "
        "(effect: their mean, percent).",
        evidence.all_fit,
    ),
    Test(
        "The best of all are wide ReLU networks with batch norm.",
        "They have the highest mean test accuracy of all kinds (effect: their lead over the next, points).",
        evidence.best_network,
    ),
    Test(
        "The second layer of trained sigmoid networks is less saturated; their last layer is near point distributions.",
        "The share of samples within 0.05 of 0 or 1 is lower in layer 2 than in every other layer (effect, share), and "
        f"the mean standard deviation within a class is lower in the last layer than in layer 2, each {BEYOND}.",
        evidence.second_layer,
        about=("mnist",),
    ),
    Test(
        "Untrained sigmoid networks have medians near 0.5 in the first layer that coincide with depth; training "
        "saturates them.",
        "Untrained: the medians of layer 1 are on average within 0.25 of 0.5, and their standard deviation over "
        "classes is lower in the last layer than in the first. Trained: the medians are further from 0.5 than "
        f"untrained (effect, mean over layers). The latter two {BEYOND}.",
        evidence.untrained_sigmoid,
        about=("mnist",),
    ),
    Test(
        "Deep layers of untrained ReLU networks overlap less than those of sigmoid networks.",
        f"The mean class overlap of the last layer is lower for ReLU {BEYOND} (effect, overlap).",
        evidence.deep_relu_separates,
        about=("mnist",),
    ),
    Test(
        "In trained ReLU networks early layers are agnostic to the class and deep layers specialised.",
        f"The mean class overlap is lower in the last layer than in the first {BEYOND} (effect, overlap).",
        evidence.deep_relu_specialises,
        about=("mnist",),
    ),
    Test(
        "Batch norm lowers the sparsity of trained ReLU networks and raises their accuracy.",
        f"Without batch norm more samples are inactive (effect, points, mean over layers), and with it the test "
        f"accuracy is higher, each {BEYOND}.",
        evidence.norm_and_sparsity,
    ),
    Test(
        "Networks that fit CIFAR10 badly look like untrained ones.",
        f"The mean class overlap of the trained sigmoid network isn't below the untrained one's {BEYOND} "
        "(effect, overlap).",
        evidence.unfit_look_untrained,
        about=("cifar10",),
    ),
)
