"""Forward passes that end once the selected sites have been seen: the same bits, and nothing left behind."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from torch import Tensor, nn

import probekit as pk
from probekit.errors import ModelError, SiteError
from tests.models import batches, mlp, samples, two_blocks
from tests.stores import contents, opened, stopping

X = torch.randn(23, 4, generator=torch.Generator().manual_seed(0))


class Counted(nn.Module):
    """A model that counts what follows its site, whose forward handles every exception of its own."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.rest = nn.Linear(4, 3), nn.Linear(3, 2)
        self.whole = 0

    def forward(self, x: Tensor) -> Tensor:
        try:
            x = self.rest(self.first(x))
        except Exception:
            x = x[:, :2]
        self.whole += 1
        return x


def gpt2() -> nn.Module:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    return transformers.GPT2LMHeadModel(transformers.GPT2Config(n_layer=3, n_embd=32, n_head=2, vocab_size=50))


IDS = torch.randint(0, 50, (23, 7), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("make", "data", "sites", "reduce"),
    [
        (Counted, X, "first", None),
        (two_blocks, X, ["block@0", "block.first"], None),  # the second call of one of them comes last
        (two_blocks, X, ["block~relu_*", "block:input"], None),
        (two_blocks, X, "**", None),  # the last site is what the model returns
        (gpt2, {"input_ids": IDS}, ["transformer.h.1", "transformer.h.1.mlp.act"], "tokens"),
        (gpt2, {"input_ids": IDS}, "transformer.h.2:input[0]", "mean"),
    ],
)
def test_a_store_is_the_same(tmp_path: Any, make: Any, data: Any, sites: Any, reduce: Any) -> None:
    for name, early in (("whole", False), ("early", True)):
        options = {"sites": sites, "batch_size": 5, "labels": False, "reduce": reduce, "mask": False}
        pk.capture(make(), data, tmp_path / name, stop_early=early, **options)
    assert contents(tmp_path / "early") == contents(tmp_path / "whole")


def test_what_follows_is_not_run(tmp_path: Any) -> None:
    model, seen = Counted(), []
    model.rest.register_forward_hook(lambda module, args, output: seen.append(len(output)))
    pk.capture(model, X, tmp_path / "early", sites="first", batch_size=5, stop_early=True)
    dry = len(seen)
    seen.clear()
    pk.capture(model, X, tmp_path / "whole", sites="first", batch_size=5)
    assert len(seen) == dry + 5


def test_nothing_is_left_on_the_model(tmp_path: Any) -> None:
    model = two_blocks().train()
    options = {"sites": ["block@0~relu_0", "block@0:input"], "batch_size": 5, "stop_early": True}
    state = torch.get_rng_state()
    pk.capture(model, X, tmp_path / "a", **options)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    assert all(m.training for m in model.modules())
    assert not torch.overrides._get_current_function_mode_stack()
    assert torch.is_grad_enabled()
    assert torch.equal(torch.get_rng_state(), state)


def test_no_pass_is_kept_in_memory() -> None:
    given: list[weakref.ref[Tensor]] = []

    def many() -> Iterator[Tensor]:
        for _ in range(8):
            batch = torch.randn(7, 4)
            given.append(weakref.ref(batch))
            yield batch
            del batch
            gc.collect()
            assert sum(each() is not None for each in given[1:]) <= 1  # the first batch is the plan's

    pk.measure_live(two_blocks(), many(), "mean", sites="block@0~relu_1", labels=False, stop_early=True)
    assert len(given) == 8


def test_a_live_measurement_is_the_same() -> None:
    model, (x, y) = mlp(), samples()
    whole, early = (
        pk.measure_live(model, (x, y), ["std", "median"], sites="1", batch_size=10, stop_early=early)
        for early in (False, True)
    )
    xr.testing.assert_identical(whole, early)


def test_a_capture_is_resumed_either_way(tmp_path: Any) -> None:
    (x, y), options = samples(), {"sites": ["0"], "memory": 300 * 4 * 10 * 2}
    pk.capture(mlp(), list(batches(x, y)), tmp_path / "whole", **options)
    for early in (False, True):
        out = tmp_path / f"resumed_{early}"
        with pytest.raises(KeyboardInterrupt):
            pk.capture(mlp(), batches(x, y, stop=50), out, stop_early=early, **options)
        assert 0 < opened(out).sizes["sample"] < 95
        pk.capture(mlp(), batches(x, y), out, stop_early=not early, resume=True, **options)
        assert contents(out).keys() == contents(tmp_path / "whole").keys()
        xr.testing.assert_identical(pk.open(out)["0"].to_dataset(), pk.open(tmp_path / "whole")["0"].to_dataset())


class Threads(nn.Module):
    """Runs its first part in a thread, and needs what that gives."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.rest = nn.Linear(4, 3), nn.Linear(3, 2)
        self.pool = ThreadPoolExecutor(1)

    def forward(self, x: Tensor) -> Tensor:
        return self.rest(self.pool.submit(self.first, x).result())


@pytest.mark.parametrize("sites", ["first", ["first", "rest"]])
def test_a_part_in_another_thread_ends_no_pass(tmp_path: Any, sites: Any) -> None:
    tree = pk.capture(Threads(), X, tmp_path / "a", sites=sites, batch_size=5, stop_early=True)
    with torch.no_grad():
        np.testing.assert_array_equal(
            tree["first"]["activation"].values, torch.cat([*map(Threads().first, X.split(5))])
        )


class Moody(nn.Module):
    """Leaves out its second part where the batch is negative."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.ReLU(), nn.ReLU(), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x) if x.sum() < 0 else self.b(self.a(x))
        return self.c(x)


def test_a_missing_site_is_reported(tmp_path: Any) -> None:
    with pytest.raises(SiteError, match="b of Moody didn't run at batch 1"):
        pk.capture(Moody(), [torch.ones(5, 4), -torch.ones(5, 4)], tmp_path / "a", sites=["a", "b"], stop_early=True)


class Keeps(nn.Module):
    """Keeps a state: `always` from pass to pass, or else only while a pass is under way."""

    def __init__(self, *, always: bool) -> None:
        super().__init__()
        self.first, self.rest = nn.Linear(4, 4), nn.Linear(4, 4)
        self.always, self.held = always, torch.zeros(4)

    def forward(self, x: Tensor) -> Tensor:
        self.held = self.held + x.mean(0)
        y = self.rest(self.first(x + self.held))
        if not self.always:
            self.held = torch.zeros(4)
        return y


@pytest.mark.parametrize("always", [False, True])
def test_a_state_that_would_differ_is_refused_and_can_be_reset(tmp_path: Any, always: bool) -> None:
    model = Keeps(always=always)
    with pytest.raises(ModelError, match=r"Keeps that is left early .* by held\. .* give reset="):
        pk.capture(model, X, tmp_path / "a", sites="first", batch_size=5, stop_early=True)
    assert not (tmp_path / "a").exists()
    for name, early in (("whole", False), ("early", True)):
        options = {"sites": "first", "batch_size": 5, "reset": lambda model: setattr(model, "held", torch.zeros(4))}
        pk.capture(model, X, tmp_path / name, stop_early=early, **options)
    assert contents(tmp_path / "early") == contents(tmp_path / "whole")


def test_predictions_and_gradients_are_refused(tmp_path: Any) -> None:
    model, data = mlp(), samples()
    for call in (pk.capture, pk.plan):
        out = [tmp_path / "a"] if call is pk.capture else []
        with pytest.raises(ModelError, match="predictions=True needs the model's logits"):
            call(model, data, *out, sites="0", predictions=True, stop_early=True)
        with pytest.raises(SiteError, match=r"0:grad needs a loss of the model's output.* without stop_early"):
            call(model, data, *out, sites=["0:grad"], stop_early=True)
    with pytest.raises(SiteError, match="0:grad needs a loss"):
        pk.measure_live(model, data, "mean", sites="0:grad", stop_early=True)
    assert not (tmp_path / "a").exists()


def test_a_hook_that_must_run_is_refused() -> None:
    model = mlp()
    model[2].register_forward_hook(lambda *seen: None, always_call=True)
    with pytest.raises(ModelError, match=r"\(stop_early=True\): 2 has a hook that is always called"):
        pk.plan(model, samples(), sites="0", stop_early=True)


def test_an_interrupt_leaves_nothing(tmp_path: Any) -> None:
    model = mlp()
    with pytest.raises(KeyboardInterrupt):
        pk.capture(
            model, samples(), tmp_path / "a", sites="0", batch_size=5, stop_early=True,
            progress=stopping(KeyboardInterrupt),
        )  # fmt: skip
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
