"""Which pass an activation belongs to: in threads, after an interrupt, in methods other than forward."""

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import probekit as pk
from probekit.errors import SiteError

X = torch.arange(8.0).reshape(4, 2)


def in_a_thread(function):
    """What a function gives in another thread, or the error that it raises."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(function).result(timeout=30)


class Meets(nn.Module):
    """Calls `meanwhile` in the middle of its forward."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.meanwhile = nn.Identity(), nn.Identity(), None

    def forward(self, x):
        x = self.first(x)
        meanwhile, self.meanwhile = self.meanwhile, None
        if meanwhile is not None:
            meanwhile()
        return self.second(x)

    def encode(self, x):
        return self.first(self.first(x) + 1)


# Threads


def test_a_pass_in_a_second_thread_is_refused_and_the_first_is_unharmed():
    model, errors = Meets(), []

    def run_elsewhere():
        with pytest.raises(SiteError, match="Meets runs in two threads at once, and a probe can't tell whose") as error:
            in_a_thread(lambda: model(X + 100))
        errors.append(error)

    model.meanwhile = run_elsewhere
    with pk.Probe(model, "**") as probe:
        model(X)
        found = probe.take()
        assert len(errors) == 1
        assert {name: tensor.tolist() for name, tensor in found.items()} == dict.fromkeys(
            ("first", "second", "(root)"), X.tolist()
        )
        in_a_thread(lambda: model(X + 1))  # one after the other is fine
        assert torch.equal(probe.take()["second"], X + 1)


def test_a_part_that_runs_in_a_second_thread_meanwhile_is_refused():
    model = Meets()

    def run_elsewhere():
        with pytest.raises(SiteError, match="first of Meets runs in two threads at once"):
            in_a_thread(lambda: model.first(X))

    model.meanwhile = run_elsewhere
    with pk.Probe(model, "**") as probe:
        model(X)
        assert torch.equal(probe.take()["second"], X)


def test_operations_are_those_of_the_thread_that_the_probe_is_in():
    class Adds(Meets):
        def forward(self, x):
            return torch.add(super().forward(torch.mul(x, 2)), 1)

    model = Adds()
    model.meanwhile = lambda: in_a_thread(lambda: nn.Sequential(nn.Identity(), nn.ReLU())(X).mul(3))
    with pk.Probe(model, "**~*") as probe:
        model(X)
        found = probe.take()
    assert list(found) == ["(root)~mul_0", "(root)~add_0"]
    assert torch.equal(found["(root)~add_0"], 2 * X + 1)


class Towers(nn.Module):
    """Runs each of its towers in a thread of its own."""

    def __init__(self):
        super().__init__()
        self.left, self.right = nn.Linear(2, 3), nn.Linear(2, 3)

    def forward(self, x):
        with torch.no_grad(), ThreadPoolExecutor(2) as pool:
            found = [*pool.map(lambda tower: tower(x), (self.left, self.right))]
        return sum(found)


def test_a_model_may_run_its_own_parts_in_threads():
    model = Towers()
    with pk.Probe(model, ["left", "right"]) as probe:
        model(X)
        model(X)
        found = probe.take()
    assert torch.equal(found["left"], model.left(X).repeat(2, 1))
    assert torch.equal(found["right"], model.right(X).repeat(2, 1))


class Replicates(nn.Module):
    """As nn.DataParallel on several devices: a replica for each half of the batch, in a thread of its own."""

    def __init__(self, module, width):
        super().__init__()
        self.module, self.width = module, width

    def forward(self, x):
        halves, found = x.chunk(self.width), {}
        replicas = [self._replica() for _ in halves]
        started = [
            threading.Thread(target=lambda n=n: found.update({n: replicas[n](halves[n])})) for n in range(len(halves))
        ]
        for thread in started:
            thread.start()
        for thread in started:
            thread.join()
        return torch.cat([found[n] for n in range(len(halves))])

    def _replica(self):
        replica = self.module._replicate_for_data_parallel()
        for name, child in self.module.named_children():
            replica._modules[name] = child._replicate_for_data_parallel()
        return replica


def test_replicas_in_one_thread_are_the_module_itself_and_in_several_are_refused(monkeypatch):
    inner = nn.Sequential(nn.Identity(), nn.ReLU())
    with pk.Probe(model := Replicates(inner, 1), "module.1") as probe:
        model(X)
        assert torch.equal(probe.take()["module.1"], X)
    errors = []
    monkeypatch.setattr(threading, "excepthook", lambda args: errors.append(args.exc_value))
    with pk.Probe(model := Replicates(inner, 2), "module.1"), pytest.raises(KeyError):
        model(X)
    assert [str(error).partition(" runs")[0] for error in errors] == ["module.1 of Replicates"]
    assert "probe the .module" in str(errors[0])


# Interrupts


class Stops(BaseException):
    pass


class Interrupted(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.inner, self.error = nn.Identity(), nn.ModuleList([nn.ReLU()]), None

    def forward(self, x):
        x = torch.mul(self.first(x), 2)
        error, self.error = self.error, None
        if error is not None:
            raise error
        return self.inner[0](torch.add(x, 1))


ERRORS = [KeyboardInterrupt, SystemExit, GeneratorExit, asyncio.CancelledError, Stops, RuntimeError]


@pytest.mark.parametrize("hold", [True, False])
@pytest.mark.parametrize("error", ERRORS)
def test_passes_after_an_interrupted_one_count_and_it_doesnt(error, hold):
    model, held = Interrupted(), []
    with pk.Probe(model, ["**", "**:input", "**~*"]) as probe:
        model(X)
        model.error = error()
        try:
            model(X + 10)
        except error as raised:
            held += [raised] * hold  # with its traceback, and the frames that this refers to
        torch.mul(X, 3)  # not the model's
        model(X + 1)
        model(X + 2)
        found = probe.take()
    expected = {name: torch.cat([value(X), value(X + 1), value(X + 2)]) for name, value in VALUES.items()}
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor)


VALUES = {
    "(root):input": lambda x: x,
    "first:input": lambda x: x,
    "first": lambda x: x,
    "(root)~mul_0": lambda x: 2 * x,
    "(root)~add_0": lambda x: 2 * x + 1,
    "inner.0:input": lambda x: 2 * x + 1,
    "inner.0~relu_0": lambda x: 2 * x + 1,
    "inner.0": lambda x: 2 * x + 1,
    "(root)": lambda x: 2 * x + 1,
}


@pytest.mark.parametrize("error", ERRORS)
def test_a_part_that_runs_after_an_interrupted_pass_is_a_pass_of_its_own(error):
    model = Interrupted()
    seen = []
    with pk.Probe(model, ["first", "first~*"], record=lambda site, tensor: seen.append(str(site))):
        model.error = error()
        with pytest.raises(error):
            model(X)
        model.first(X)
        torch.mul(X, 3)
        model.first(X)
    assert seen == ["first@0"] * 3


def test_a_pass_in_a_thread_that_was_interrupted_is_over():
    model = Interrupted()
    model.error = Stops()
    with pk.Probe(model, "first") as probe:
        with pytest.raises(Stops):
            in_a_thread(lambda: model(X))
        model(X)
        assert torch.equal(probe.take()["first"], X)


def test_a_model_that_catches_the_interrupt_of_a_part_of_its_own_ends_well():
    class Catches(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = Interrupted()

        def forward(self, x):
            self.inner.error = Stops()
            try:
                self.inner(x)
            except Stops:
                return torch.sub(x, 1)

    model = Catches()
    with pk.Probe(model, ["(root)", "(root)~*"]) as probe:
        model(X)
        model(X)
        found = probe.take()
    assert list(found) == ["(root)~sub_0", "(root)"]
    assert torch.equal(found["(root)"], torch.cat([X, X]) - 1)


# Methods other than forward


class Methods(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.act, self.head = nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2)

    def forward(self, x):
        return self.head(self.encode(x))

    def encode(self, x):
        return self.act(self.first(self.act(x)))

    def decode(self, x):
        return self.head(x)


def test_calls_are_counted_in_a_method_as_they_are_in_forward():
    model = Methods()
    with pk.Probe(model, ["act", "first"]) as probe:
        model(X)
        forward = probe.take()
        model.encode(X)
        model.encode(X + 1)
        found = probe.take()
    assert list(found) == list(forward) == ["act@0", "first", "act@1"]
    assert torch.equal(found["act@0"], torch.cat([X, X + 1]))
    assert torch.equal(found["act@1"], F.relu(model.first(torch.cat([X, X + 1]))))
    assert torch.equal(found["act@1"][:4], forward["act@1"])


def test_parts_that_run_one_after_another_make_one_pass():
    model = Methods()
    with pk.Probe(model, ["first", "head"]) as probe:
        for shift in (0, 1):
            model.decode(model.encode(X + shift))
        found = probe.take()
    assert torch.equal(found["head"], model(torch.cat([X, X + 1])))


def test_a_loop_over_a_part_makes_a_pass_a_call():
    model = Methods()
    with pk.Probe(model, "first") as probe:
        for shift in range(3):
            model.first(X + shift)
        assert probe.take()["first"].shape == (12, 2)
