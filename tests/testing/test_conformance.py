"""The conformance kit: a right metric passes, and the author of a wrong one is told what is wrong."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

import probekit as pk
from probekit.metrics import Block, Samples, Spec, State, Variables
from probekit.testing import Check, ConformanceError, checks, conformance

Tensor = torch.Tensor


@dataclass(frozen=True)
class Average:
    """Mean of each class at each node."""

    name: ClassVar[str] = "average"
    version: ClassVar[int] = 1
    parameters: ClassVar[dict[str, Any]] = {}

    def init(self, spec: Spec) -> State:
        count = torch.zeros(spec.classes, dtype=torch.int64)
        return {"count": count, "sum": torch.zeros(spec.classes, spec.nodes, dtype=torch.float64)}

    def update(self, state: State, x: Tensor, y: Tensor) -> State:
        sums = state["sum"].index_add(0, y, x.double())
        return {"count": state["count"] + torch.bincount(y, minlength=len(sums)), "sum": sums}

    def merge(self, a: State, b: State) -> State:
        return {key: a[key] + b[key] for key in a}

    def finalize(self, state: State) -> Variables:
        return {"average": (("label", "node"), (state["sum"] / state["count"][:, None]).numpy())}


@pk.metric
def width(values: np.ndarray) -> np.ndarray:
    """Range of each class at each node."""
    return values[-1] - values[0]


class Largest:
    """Norm of the largest row of a site."""

    name, version, parameters = "largest", 1, {}

    def compute_samples(self, samples: Samples) -> Variables:
        norms = [np.linalg.norm(x, axis=1).max() for x, _ in samples.batches()]
        return {"largest": ((), np.asarray(max(norms)))}


class Modest(Average):
    """Needs more than it says."""

    def memory(self, spec: Spec, samples: int) -> int:
        return 10


class Shrinking(Average):
    """Needs less for more samples."""

    def memory(self, spec: Spec, samples: int) -> int:
        return 10**9 // samples


class Hasty(Average):
    """Is done before it begins."""

    def seconds(self, spec: Spec, samples: int) -> tuple[float, float]:
        return 1.0, -1.0


class Late(Average):
    """Its state grows later."""

    def init(self, spec: Spec) -> State:
        return {key: torch.zeros(1) for key in ("count", "sum", "nodes", "classes")}

    def update(self, state: State, x: Tensor, y: Tensor) -> State:
        return {"sum": torch.zeros(4, 999)}


class Asking(Average):
    """Asks for the value of a tensor when its state is made, which there is only where tensors have memory."""

    def init(self, spec: Spec) -> State:
        assert float(torch.zeros((), device=spec.device)) == 0
        return super().init(spec)


class Forgetful(Average):
    """The last batch alone."""

    def update(self, state: State, x: Tensor, y: Tensor) -> State:
        return super().update({key: torch.zeros_like(value) for key, value in state.items()}, x, y)


class Careless(Average):
    """Sums in place."""

    def update(self, state: State, x: Tensor, y: Tensor) -> State:
        state["sum"].index_add_(0, y, x.double())
        return state | {"count": state["count"] + torch.bincount(y, minlength=len(state["count"]))}


class Widening(Average):
    """Works on what is a copy of a batch in float32 only."""

    def update(self, state: State, x: Tensor, y: Tensor) -> State:
        return super().update(state, x.double().abs_(), y)


class Overwriting(Average):
    """Changes the batch, and what it had been is lost."""

    def update(self, state: State, x: Tensor, y: Tensor) -> State:
        return super().update(state, x.abs_(), y)


class Greedy(Average):
    """Merges to the second."""

    def merge(self, a: State, b: State) -> State:
        return dict(b)


class OneSided(Average):
    """Doesn't merge with no samples."""

    def merge(self, a: State, b: State) -> State:
        return super().merge(a, b) if a["count"].sum() else dict(a)


class Spilling(Average):
    """Sums by a product, in which 0 × ∞ is NaN."""

    def update(self, state: State, x: Tensor, y: Tensor) -> State:
        codes = torch.nn.functional.one_hot(y, len(state["count"])).double()
        return {"count": state["count"] + codes.sum(0).long(), "sum": state["sum"] + codes.T @ x.double()}


class Zero(Average):
    """0 where there is nothing."""

    def finalize(self, state: State) -> Variables:
        return {"average": (("label", "node"), (state["sum"] / state["count"][:, None].clamp(min=1)).numpy())}


class Coarse(Average):
    """Sums of squares in the precision of the batch."""

    def update(self, state: State, x: Tensor, y: Tensor) -> State:
        spread = x.square() - x.square().mean(0)
        return super().update(state, spread.sum(0) + x.new_zeros(x.shape), y)


class Ordered(Average):
    """The first class is another than the others."""

    def finalize(self, state: State) -> Variables:
        return {"average": (("node",), (state["sum"][0] / state["count"][0]).numpy())}


class Centred(Average):
    """Each node beside the mean of all that are handed over."""

    def update(self, state: State, x: Tensor, y: Tensor) -> State:
        return super().update(state, x - x.mean(1, keepdim=True), y)


class Sideways(Average):
    """Says node where the classes are."""

    def finalize(self, state: State) -> Variables:
        return {"average": (("node", "label"), super().finalize(state)["average"][1])}


class Misnamed(Average):
    """Calls the classes something else."""

    def finalize(self, state: State) -> Variables:
        return {"average": (("class", "node"), super().finalize(state)["average"][1])}


class Neuronal(Misnamed):
    """Calls the nodes something else."""

    def finalize(self, state: State) -> Variables:
        return {"average": (("label", "neuron"), super().finalize(state)["average"][1])}


class Unpaired(Misnamed):
    """Has the second of two classes alone."""

    def finalize(self, state: State) -> Variables:
        return {"average": (("label_b", "node"), super().finalize(state)["average"][1])}


class Undecided(Average):
    """Sees positions as nobody can."""

    positions: ClassVar[str] = "some"


class Named(Average):
    """Gives words."""

    def finalize(self, state: State) -> Variables:
        return {"average": (("label",), np.array(["much"] * len(state["count"])))}


class Hoarding(Average):
    """Keeps all samples."""

    def init(self, spec: Spec) -> State:
        return super().init(spec) | {"all": torch.zeros(0, spec.nodes, dtype=torch.float64)}

    def update(self, state: State, x: Tensor, y: Tensor) -> State:
        return super().update(state, x, y) | {"all": torch.cat([state["all"], x.double()])}


class Viewing(Average):
    """Keeps a view of the batch."""

    def init(self, spec: Spec) -> State:
        return super().init(spec) | {"first": torch.zeros(spec.classes, spec.nodes, dtype=spec.dtype)}

    def update(self, state: State, x: Tensor, y: Tensor) -> State:
        return super().update(state, x, y) | {"first": x[:1].expand(len(state["count"]), -1)}

    def finalize(self, state: State) -> Variables:
        return super().finalize(state) | {"first": (("node",), state["first"][0].numpy().copy())}


class Learning(Average):
    """Keeps the graph."""

    def update(self, state: State, x: Tensor, y: Tensor) -> State:
        with torch.enable_grad():
            return super().update(state, x, y)


class Sharing(Average):
    """Gives its own memory away."""

    def finalize(self, state: State) -> Variables:
        return {"average": (("label", "node"), state["sum"].numpy())}


class Remembering(Average):
    """Keeps on itself what finalize needs."""

    def init(self, spec: Spec) -> State:
        object.__setattr__(self, "scale", 2.0)
        return super().init(spec)

    def finalize(self, state: State) -> Variables:
        return {"average": (("label", "node"), super().finalize(state)["average"][1] * self.scale)}


class Turned(Average):
    """Has the classes second."""

    def init(self, spec: Spec) -> State:
        return {"count": torch.zeros(spec.nodes, spec.classes, dtype=torch.int64)}

    def update(self, state: State, x: Tensor, y: Tensor) -> State:
        return {"count": state["count"] + torch.bincount(y, minlength=state["count"].shape[1])}

    def finalize(self, state: State) -> Variables:
        return {"average": (("node", "label"), state["count"].numpy().copy())}


class Listing(Average):
    """Has a list in its state."""

    def init(self, spec: Spec) -> State:
        return super().init(spec) | {"batches": []}  # type: ignore[dict-item]

    def update(self, state: State, x: Tensor, y: Tensor) -> State:
        return super().update(state, x, y) | {"batches": state["batches"]}

    def merge(self, a: State, b: State) -> State:
        return super().merge({k: a[k] for k in ("count", "sum")}, b) | {"batches": a["batches"]}


class Picky(Average):
    """Wants several classes."""

    def finalize(self, state: State) -> Variables:
        if len(state["count"]) < 2:
            raise ValueError("too few classes")
        return super().finalize(state)


class Batched(Average):
    """Counts batches."""

    def update(self, state: State, x: Tensor, y: Tensor) -> State:
        return super().update(state, x[-1:], y[-1:])


@dataclass(frozen=True)
class Silent(Average):
    name: ClassVar[str] = "silent"


class Colon(Average):
    """A name that would be read as one with parameters."""

    name: ClassVar[str] = "average:2"


class Early(Average):
    """A version below the first."""

    version: ClassVar[int] = 0


class Unwritable(Average):
    """A parameter that JSON doesn't have."""

    parameters: ClassVar[dict[str, Any]] = {"weights": np.ones(2)}


@dataclass(frozen=True)
class Locked(Average):
    """Holds what can't be pickled."""

    function: Callable[[float], float] = field(default=lambda x: x)


class Strict:
    """Refuses a constant node."""

    name, version, parameters = "strict", 1, {}

    def compute(self, block: Block) -> Variables:
        if block.constant.all():
            raise ZeroDivisionError("no spread")
        return {"strict": (("node",), block.values[:, 0])}


class Warning_:
    """Warns of a class without samples."""

    name, version, parameters = "warning", 1, {}

    def compute(self, block: Block) -> Variables:
        return {"warning": (("label", "node"), np.stack([block[c].mean(axis=1) for c in range(block.classes)]))}


class Sorting(Strict):
    """Changes the block that all share."""

    def compute(self, block: Block) -> Variables:
        block.values[:, 0] = 0
        return {"strict": (("node",), block.values[:, 0].copy())}


class Whole(Strict):
    """A column metric without nodes."""

    def compute(self, block: Block) -> Variables:
        return {"strict": ((), block.values.max())}


class Scribbling(Largest):
    """Changes the batches."""

    def compute_samples(self, samples: Samples) -> Variables:
        for x, _ in samples.batches():
            x *= 2
        return super().compute_samples(samples)


WRONG = [
    (Forgetful, "any split"),
    (Batched, "any split"),
    (Batched, "live and store"),
    (Forgetful, "live and store"),
    (Remembering, "saved state"),
    (Greedy, "any merge order"),
    (OneSided, "merge with nothing"),
    (Careless, "arguments unchanged"),
    (Widening, "arguments unchanged"),
    (Overwriting, "arguments unchanged"),
    (Sorting, "arguments unchanged"),
    (Scribbling, "arguments unchanged"),
    (Spilling, "infinities stay where they are"),
    (Zero, "missing class"),
    (Warning_, "missing class"),
    (Coarse, "precision"),
    (Ordered, "class permutation"),
    (Centred, "node subset"),
    (Sideways, "declared dims"),
    (Misnamed, "declared dims"),
    (Neuronal, "declared dims"),
    (Unpaired, "declared dims"),
    (Named, "declared dims"),
    (Whole, "declared dims"),
    (Hoarding, "state shape"),
    (Listing, "state shape"),
    (Viewing, "state of its own"),
    (Learning, "no autograd graph"),
    (Sharing, "finalize twice"),
    (Turned, "new class"),
    (Turned, "node subset"),
    (Picky, "one class"),
    (Strict, "dead nodes"),
    (Strict, "one sample"),
    (Modest, "says what it needs"),
    (Shrinking, "says what it needs"),
    (Hasty, "says what it needs"),
    (Late, "says what it needs"),
    (Silent, "says what it is"),
    (Colon, "says what it is"),
    (Early, "says what it is"),
    (Unwritable, "says what it is"),
    (Undecided, "says what it is"),
    (Locked, "goes to other processes"),
]


def check_of(metric: Any, law: str) -> Check:
    [found] = [check for check in checks(metric) if check.law.name == law]
    return found


@conformance(Average(), width, Largest(), Asking(), except_for={})
def test_a_right_metric_passes(check: Check) -> None:
    if check.law.name != "two processes":  # which can't import this module
        check()


@pytest.mark.parametrize(("wrong", "law"), WRONG, ids=lambda value: getattr(value, "__name__", value))
def test_a_wrong_metric_is_told_which_law_it_breaks(wrong: type, law: str) -> None:
    metric = wrong()
    with pytest.raises(ConformanceError) as raised:
        check_of(metric, law)()
    lines = str(raised.value).splitlines()
    assert lines[0] == f"The metric {metric.name!r} breaks the law {law!r}."
    assert lines[1].startswith("   law: ")
    assert any(line.startswith(" found: ") for line in lines)


def test_a_wrong_dim_fails_the_law_about_dims_first_and_parameters_are_a_mapping() -> None:
    broken = []
    for check in checks(Misnamed()):
        try:
            if check.law.name != "two processes":
                check()
        except ConformanceError as error:
            broken.append((check.law.name, str(error)))
    assert broken[0][0] == "declared dims"
    assert "the dim 'class' of 'average' is as long as there are classes: its name is 'label'" in broken[0][1]

    class Without(Average):
        """Has no parameters, and says so in a wrong way."""

        parameters: ClassVar[Any] = None

    message = r"'average' has the parameters None; they are a mapping .*\{\} where there are none"
    with pytest.raises(pk.errors.PluginError, match=message):
        checks(Without())
    with pytest.raises(pk.errors.PluginError, match=message):
        pk.measure_live(torch.nn.ReLU(), torch.ones(2, 2), Without())


def test_every_law_is_broken_by_one_of_the_wrong_metrics() -> None:
    laws = {check.law.name for check in checks(Average(), width, Largest())}
    assert laws - {law for _, law in WRONG} == {"two processes"}


def test_the_message_says_the_law_the_samples_what_came_out_and_what_to_do() -> None:
    with pytest.raises(ConformanceError) as raised:
        check_of(Zero(), "missing class")()
    assert str(raised.value).splitlines() == [
        "The metric 'average' breaks the law 'missing class'.",
        "   law: A class without samples is NaN in float variables along label and label_b, and changes nothing else.",
        "  with: those that aren't of class 1 of 240 samples of 4 classes at 7 nodes (node 5 is always 0)",
        " found: 'average' at label 1 is 0.0, not NaN",
        "  mend: A 0 would look like a measured 0. Divide by the count itself (0 / 0 is NaN), and leave such classes "
        "out of means over classes.",
    ]
    with pytest.raises(ConformanceError, match=r"'average' at label 1, node 0 is \S+ cut after 1 and \S+ in one batch"):
        check_of(Forgetful(), "any split")()


def test_what_a_metric_raises_is_the_cause() -> None:
    with pytest.raises(ConformanceError, match="raised ZeroDivisionError: no spread") as raised:
        check_of(Strict(), "dead nodes")()
    assert isinstance(raised.value.__cause__, ZeroDivisionError)


def test_a_check_leaves_the_filters_of_warnings_as_they_are() -> None:
    before = list(warnings.filters)
    check_of(Average(), "any split")()
    assert warnings.filters == before


def test_laws_are_for_the_kinds_that_they_apply_to() -> None:
    streaming, column, samples = ({check.law.name for check in checks(each)} for each in (Average(), width, Largest()))
    assert column < streaming
    assert streaming - column >= {"any split", "two processes", "saved state"}
    assert column - samples == {"node subset"}


def test_checks_are_named_by_metric_and_law() -> None:
    names = [check.name for check in checks(pk.metrics.Std(), pk.metrics.Std(ddof=1), pk.metrics.Mean)]
    assert "std:ddof=0-any split" in names
    assert "std:ddof=1-any split" in names
    assert "mean-any split" in names
    assert len(set(names)) == len(names)


def test_exceptions_are_expected_to_fail_and_have_a_reason() -> None:
    @conformance(Zero(), except_for={"missing class": "none is 0 in this field"})
    def test(check: Check) -> None: ...

    [mark] = test.pytestmark
    [excused] = [case for case in mark.args[1] if case.marks]
    assert excused.id == "average-missing class"
    assert excused.marks[0].name == "xfail"
    assert excused.marks[0].kwargs["strict"]
    assert excused.marks[0].kwargs["reason"] == "none is 0 in this field"


def test_an_exception_from_no_law_or_without_a_reason_is_refused() -> None:
    with pytest.raises(pk.errors.PluginError, match=r"'missing clas'.*Near: 'missing class'.*'any split'"):
        conformance(Average(), except_for={"missing clas": "why"})
    with pytest.raises(pk.errors.PluginError, match="each with a reason"):
        conformance(Average(), except_for={"missing class": ""})


def test_what_is_no_metric_is_refused() -> None:
    with pytest.raises(pk.errors.PluginError, match="is not a metric"):
        conformance(object())
    with pytest.raises(pk.errors.PluginError, match="give at least one"):
        conformance()


@pytest.mark.slow
def test_without_pytest_the_decorator_says_so_and_checks_work(python: Callable[..., Any]) -> None:
    code = (
        "import sys\n"
        "from probekit import errors, testing\n"
        "from probekit.metrics import median\n"
        "print('pytest' in sys.modules)\n"
        "sys.modules['pytest'] = None\n"
        "testing.checks(median)[0]()\n"
        "try: testing.conformance(median)\n"
        "except errors.PluginError as error: print(error)\n"
    )
    done = python(code)
    assert done.stdout.splitlines()[0] == "False", done.stderr
    assert "which isn't installed. Install it: `pip install pytest`." in done.stdout
