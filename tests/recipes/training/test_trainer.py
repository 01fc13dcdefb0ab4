from __future__ import annotations

import signal
import threading
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import TypeVar

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import probekit as pk
from probekit.recipes.relu_vs_sigmoid.data import Samples, Split, split_arrays
from probekit.recipes.relu_vs_sigmoid.training.networks import (
    Config,
    Member,
    Trained,
    build,
    calibrate_batch_norm,
    default_learning_rate,
)
from probekit.recipes.relu_vs_sigmoid.training.trainer import by_shape, sample_order, train
from tests.recipes.trainings import digits

T = TypeVar("T")
BATCH = 16


def blobs(dtype: torch.dtype = torch.float64) -> Split:
    """Three overlapping Gaussian classes; 100 training samples leave a last batch of 4."""
    random = np.random.default_rng(0)
    y = np.arange(160) % 3
    x = random.normal(size=(160, 12)) + random.normal(size=(3, 12))[y] * 0.8
    split = split_arrays(x, y, ("a", "b", "c"), validation_size=30, test_size=30)
    return Split(*(replace(samples, x=samples.x.to(dtype)) for samples in split.subsets), split.class_names)


def accuracy(network: nn.Module, samples: Samples) -> float:
    with torch.no_grad():
        return (network(samples.x).argmax(1) == samples.y).double().mean().item()


def train_alone(member: Member, split: Split, epochs: int) -> tuple[nn.Sequential, int, list[tuple[float, ...]]]:
    """The training with torch's own modules: the network of the best epoch, its epoch, and the curves."""
    network = build(member.config, split.features, split.classes, member.seed).to(split.train.x.dtype)
    optimiser = torch.optim.Adam(network.parameters(), lr=member.learning_rate)
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimiser, 0.99)
    best, best_epoch, curves = network.state_dict(), 0, []
    for epoch in range(epochs):
        network.train()
        for rows in sample_order(member.seed, epoch, len(split.train)).split(BATCH):
            optimiser.zero_grad()
            F.cross_entropy(network(split.train.x[rows]), split.train.y[rows]).backward()
            optimiser.step()
        schedule.step()
        network.eval()
        loss = F.cross_entropy(network(split.train.x), split.train.y).item()
        curves.append((loss, accuracy(network, split.train), accuracy(network, split.validation)))
        if curves[-1][2] >= max(row[2] for row in curves):
            best, best_epoch = {name: value.clone() for name, value in network.state_dict().items()}, epoch + 1
    network.load_state_dict(best)
    return network, best_epoch, curves


def train_to_the_end(member: Member, split: Split, epochs: int) -> nn.Sequential:
    """The network after its last epoch, by torch's own modules."""
    network = build(member.config, split.features, split.classes, member.seed).to(split.train.x.dtype)
    optimiser = torch.optim.Adam(network.parameters(), lr=member.learning_rate)
    for epoch in range(epochs):
        optimiser.param_groups[0]["lr"] = member.learning_rate * 0.99**epoch
        for rows in sample_order(member.seed, epoch, len(split.train)).split(BATCH):
            optimiser.zero_grad()
            F.cross_entropy(network(split.train.x[rows]), split.train.y[rows]).backward()
            optimiser.step()
    return network.eval()


def members(batch_norm: bool, depth: int = 3, width: int = 20) -> list[Member]:
    """Activations, seeds and learning rates in an order that the stack can't keep."""
    relu, sigmoid = (Config(name, depth, width, batch_norm) for name in ("relu", "sigmoid"))
    rows = [(sigmoid, 0, 1e-2), (relu, 1, 3e-3), (sigmoid, 1, 3e-3), (relu, 0, 3e-3), (relu, 0, 1e-2)]
    return [Member(*row) for row in rows]


@pytest.fixture(scope="module", params=[False, True], ids=["plain", "batch_norm"])
def together(request: pytest.FixtureRequest) -> list[Trained]:
    return train(members(request.param), blobs(), epochs=6, batch_size=BATCH)


@pytest.mark.parametrize("index", range(5))
def test_a_member_is_what_it_would_be_alone(together: list[Trained], index: int) -> None:
    result = together[index]
    network, best_epoch, curves = train_alone(result.member, blobs(), epochs=6)
    assert result.member == members(result.member.config.batch_norm)[index]
    assert result.best.epoch == best_epoch
    found = result.best.network.state_dict()
    for name, value in network.state_dict().items():
        torch.testing.assert_close(found[name], value, rtol=1e-7, atol=1e-9, msg=lambda text, name=name: name + text)
    np.testing.assert_allclose(np.stack(result.curves[1:], 1), curves, rtol=1e-8)
    np.testing.assert_array_equal(result.curves.epoch, np.arange(1, 7))


@pytest.mark.parametrize("index", range(5))
def test_the_last_epochs_weights_are_kept_beside_the_best(together: list[Trained], index: int) -> None:
    result, split = together[index], blobs()
    alone = train_to_the_end(result.member, split, epochs=6)
    for name, value in alone.state_dict().items():
        torch.testing.assert_close(result.last.network.state_dict()[name], value, rtol=1e-7, atol=1e-9)
    assert result.last.epoch == 6
    assert result.last.train_accuracy == pytest.approx(accuracy(result.last.network, split.train), abs=1e-12)
    assert result.last.train_accuracy == result.curves.train_accuracy[-1]
    assert result.last.test_accuracy == pytest.approx(accuracy(result.last.network, split.test), abs=1e-12)
    assert result.trained("last") is result.last


@pytest.mark.parametrize("batch_norm", [False, True])
def test_a_member_is_what_it_would_be_alone_in_single_precision(batch_norm: bool) -> None:
    split = blobs(torch.float32)
    for result in train(members(batch_norm), split, epochs=2, batch_size=BATCH):
        network, _, _ = train_alone(result.member, split, epochs=2)
        found = result.best.network.state_dict()
        for name, value in network.state_dict().items():
            torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-4)


def test_accuracies_are_those_of_the_network_handed_out(together: list[Trained]) -> None:
    split = blobs()
    for result in together:
        assert not result.best.network.training
        assert result.best.train_accuracy == pytest.approx(accuracy(result.best.network, split.train), abs=1e-12)
        assert result.best.validation_accuracy == pytest.approx(
            accuracy(result.best.network, split.validation), abs=1e-12
        )
        assert result.best.test_accuracy == pytest.approx(accuracy(result.best.network, split.test), abs=1e-12)
        assert result.best.validation_accuracy == result.curves.validation_accuracy.max()
        assert result.seconds > 0


def test_the_untrained_network_is_the_built_one_calibrated(together: list[Trained]) -> None:
    split = blobs()
    for result in together:
        expected = build(result.member.config, split.features, split.classes, result.member.seed).double()
        calibrate_batch_norm(expected, split.train.x)
        found = result.untrained.state_dict()
        assert not result.untrained.training
        assert all(torch.equal(found[name], value) for name, value in expected.state_dict().items())


def test_among_equally_good_epochs_the_last_is_restored() -> None:
    still = [Member(Config("relu", 1, 4, False), 0, 1e-12)]
    (result,) = train(still, blobs(), epochs=3, batch_size=BATCH)
    assert len(set(result.curves.validation_accuracy)) == 1
    assert result.best.epoch == 3


def test_the_learning_rate_decays_each_epoch() -> None:
    """With a decay of nothing left, later epochs change nothing."""
    member = members(False)[0]
    (one,) = train([member], blobs(), epochs=1, batch_size=BATCH, decay=0.0)
    (three,) = train([member], blobs(), epochs=3, batch_size=BATCH, decay=0.0)
    assert torch.equal(one.best.network.head.get_parameter("weight"), three.best.network.head.get_parameter("weight"))
    assert not torch.equal(one.best.network.head.get_parameter("weight"), one.untrained.head.get_parameter("weight"))


def test_the_global_generator_is_left_alone() -> None:
    torch.manual_seed(0)
    state = torch.get_rng_state()
    first = train(members(True), blobs(), epochs=1, batch_size=BATCH)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(1)
    again = train(members(True), blobs(), epochs=1, batch_size=BATCH)
    for one, other in zip(first, again, strict=True):
        assert torch.equal(one.best.network(blobs().test.x), other.best.network(blobs().test.x))


def test_sample_order_is_a_permutation_of_its_own_by_seed_and_epoch() -> None:
    orders = [sample_order(seed, epoch, 50) for seed in (0, 1) for epoch in (0, 1)]
    assert all(sorted(order.tolist()) == list(range(50)) for order in orders)
    assert len({tuple(order.tolist()) for order in orders}) == 4
    assert torch.equal(orders[3], sample_order(1, 1, 50))


def test_shapes_group_what_can_train_together() -> None:
    configs = [Config("relu", 2, 5, False), Config("sigmoid", 2, 5, True), Config("sigmoid", 2, 5, False)]
    chosen = [Member(config, seed, 1e-3) for config in configs for seed in (0, 1)]
    assert {shape: [member.name for member in group] for shape, group in by_shape(chosen).items()} == {
        "2x5": ["relu-2x5-s0", "relu-2x5-s1", "sigmoid-2x5-s0", "sigmoid-2x5-s1"],
        "2x5-bn": ["sigmoid-2x5-bn-s0", "sigmoid-2x5-bn-s1"],
    }


@pytest.mark.parametrize("batch_norm", [False, True])
def test_default_learning_rates_fit_digits(batch_norm: bool) -> None:
    configs = [Config(name, 2, 64, batch_norm) for name in ("relu", "sigmoid")]
    chosen = [Member(config, 0, default_learning_rate(config)) for config in configs]
    for result in train(chosen, digits(), epochs=12, batch_size=32):
        assert result.best.train_accuracy > 0.98
        assert result.best.test_accuracy > 0.93


def test_progress_steps_once_an_epoch() -> None:
    seen = []

    def progress(items: Iterable[T], /, description: str, total: int | None = None) -> Iterator[T]:
        seen.append((description, total))
        for item in items:
            seen.append(item)
            yield item

    train(members(True), blobs(), epochs=3, batch_size=BATCH, progress=progress)
    assert seen == [("3x20-bn: 5 networks", 3), 0, 1, 2]


def test_an_interrupt_stops_it_at_once() -> None:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # what starts a process may have it ignored
    timer = threading.Timer(0.5, signal.raise_signal, [signal.SIGINT])
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        train(members(False), blobs(), epochs=100_000, batch_size=BATCH)
    timer.join()
    signal.signal(signal.SIGINT, before)


def test_shapes_do_not_mix() -> None:
    with pytest.raises(pk.errors.ModelError, match=r"have 3x20, 3x20-bn\. Group them with by_shape"):
        train([*members(False), *members(True)], blobs(), epochs=1, batch_size=BATCH)


def test_batch_norm_refuses_a_batch_of_one() -> None:
    with pytest.raises(pk.errors.DataError, match="100 training samples in batches of 9 leave a last batch of one"):
        train(members(True), blobs(), epochs=1, batch_size=9)
    train(members(False), blobs(), epochs=1, batch_size=9)


def test_bfloat16_trains_weights_that_stay_exact() -> None:
    split = blobs(torch.float32)
    exact, rounded = (
        train(members(True), split, epochs=3, batch_size=BATCH, precision=precision)
        for precision in ("float32", "bfloat16")
    )
    for one, other in zip(exact, rounded, strict=True):
        weight, theirs = (each.best.network.head.get_parameter("weight") for each in (one, other))
        assert theirs.dtype == torch.float32
        assert not torch.equal(theirs, theirs.bfloat16().float())
        assert not torch.equal(weight, theirs)
        assert other.best.validation_accuracy == pytest.approx(
            accuracy(other.best.network, split.validation), abs=1e-12
        )
        np.testing.assert_allclose(one.curves.train_loss, other.curves.train_loss, rtol=0.1)


def test_a_precision_that_there_is_not_is_refused() -> None:
    with pytest.raises(pk.errors.DataError, match="tf32 is a precision of CUDA devices, and the samples are on cpu"):
        train(members(False), blobs(), epochs=1, batch_size=BATCH, precision="tf32")
    with pytest.raises(pk.errors.DataError, match="no precision 'half'; there are: float32, tf32, bfloat16"):
        train(members(False), blobs(), epochs=1, batch_size=BATCH, precision="half")
