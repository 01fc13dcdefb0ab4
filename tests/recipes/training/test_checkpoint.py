"""A training that was stopped resumes with bit-identical results; one that no longer improves is done."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import numpy as np
import pytest
import torch

from probekit.recipes.relu_vs_sigmoid.data import Split
from probekit.recipes.relu_vs_sigmoid.training.checkpoint import Checkpoint
from probekit.recipes.relu_vs_sigmoid.training.networks import Config, Member, Trained
from probekit.recipes.relu_vs_sigmoid.training.trainer import train
from tests.recipes.trainings import digits, same

pytestmark = pytest.mark.slow

T = TypeVar("T")


def exact_digits() -> Split:
    """Digits in double precision, for networks that must be equal though they are stacked otherwise."""
    split = digits()
    return Split(*(replace(samples, x=samples.x.double()) for samples in split.subsets), split.class_names)


def members(batch_norm: bool) -> list[Member]:
    """Some that learn, and some at a rate at which they soon stop improving."""
    kinds = [Config(name, 2, 24, batch_norm) for name in ("relu", "sigmoid")]
    return [Member(kind, seed, rate) for kind in kinds for seed in (0, 1) for rate in (1e-3, 3e-2)][:6]


def stopping(after: int) -> object:
    """A progress that interrupts after so many steps."""

    def progress(items: Iterable[T], /, description: str, total: int | None = None) -> Iterator[T]:
        for step, item in enumerate(items):
            if step == after:
                raise KeyboardInterrupt
            yield item

    return progress


@pytest.mark.parametrize("batch_norm", [False, True])
@pytest.mark.parametrize("after", [1, 10])
def test_a_stopped_training_resumes_bit_identically(tmp_path: Path, batch_norm: bool, after: int) -> None:
    def course(**more: object) -> list[Trained]:
        checkpoint = Checkpoint(tmp_path / f"{len(more)}.pt", 3, {"some": "key"})
        return train(
            members(batch_norm), digits(), epochs=16, batch_size=128, patience=4, checkpoint=checkpoint, **more
        )

    with pytest.raises(KeyboardInterrupt):
        course(progress=stopping(after))
    assert (tmp_path / "1.pt").exists() == (after >= 3)
    assert same(course(), course(progress=stopping(1000)))


@pytest.mark.parametrize(("networks", "then"), [(1, 6), (4, 2)])
def test_a_stopped_training_resumes_where_other_networks_are_computed_at_once(
    expected: list[Trained], tmp_path: Path, networks: int, then: int
) -> None:
    with pytest.raises(KeyboardInterrupt):
        stacked(tmp_path, networks, progress=stopping(7))
    for each, other in zip(stacked(tmp_path, then), expected, strict=True):
        assert (each.member, each.best.epoch) == (other.member, other.best.epoch)
        np.testing.assert_allclose(np.stack(each.curves), np.stack(other.curves), rtol=1e-6)
        for name, value in other.best.network.state_dict().items():
            torch.testing.assert_close(each.best.network.state_dict()[name], value, rtol=1e-6, atol=1e-9)


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> list[Trained]:
    found = stacked(tmp_path_factory.mktemp("expected"), 6)
    assert len({len(each.curves.epoch) for each in found}) > 1
    return found


def stacked(folder: Path, networks: int, **more: object) -> list[Trained]:
    """A training of six networks of which so many are computed at once."""
    weights = 64 * 24 + 24**2 + 24 * 10
    return train(
        members(True), exact_digits(), epochs=16, batch_size=128, patience=4,
        checkpoint=Checkpoint(folder / "state.pt", 1, {"some": "key"}), stack_bytes=networks * 4 * 8 * weights, **more,
    )  # fmt: skip


def test_patience_ends_a_member_as_it_would_alone() -> None:
    split, chosen = exact_digits(), members(False)[:4]
    together = train(chosen, split, epochs=30, batch_size=128, patience=5)
    everything = train(chosen, split, epochs=30, batch_size=128)
    assert len({len(each.curves.epoch) for each in together}) > 2
    for each, course in zip(together, everything, strict=True):
        (alone,) = train([each.member], split, epochs=30, batch_size=128, patience=5)
        assert alone.best.epoch == each.best.epoch
        np.testing.assert_allclose(np.stack(alone.curves), np.stack(each.curves), rtol=1e-6)
        for name, value in alone.best.network.state_dict().items():
            torch.testing.assert_close(each.best.network.state_dict()[name], value, rtol=1e-6, atol=1e-9)
        # It is done at the end of the first five epochs without a better one.
        accuracy = course.curves.validation_accuracy
        waits = [epoch - int(np.argmax(accuracy[: epoch + 1])) for epoch in range(30)]
        assert len(each.curves.epoch) == (waits.index(5) + 1 if 5 in waits else 30)
        assert each.last.epoch == len(each.curves.epoch)
        for name, value in alone.last.network.state_dict().items():
            torch.testing.assert_close(each.last.network.state_dict()[name], value, rtol=1e-6, atol=1e-9)
        np.testing.assert_allclose(each.curves.validation_accuracy, accuracy[: len(each.curves.epoch)])


def test_a_checkpoint_of_other_settings_is_not_used(tmp_path: Path) -> None:
    def course(key: str, seed: int) -> list[Trained]:
        checkpoint = Checkpoint(tmp_path / "one.pt", 1, {"key": key})
        chosen = [Member(Config("relu", 1, 8, False), seed, 1e-3)]
        return train(chosen, digits(), epochs=2, batch_size=64, checkpoint=checkpoint)

    first, other = course("a", 0), course("b", 1)
    assert not same(first, other)
    assert same(course("b", 1), other)


def test_patience_counts_once_a_member_fits() -> None:
    split, chosen = exact_digits(), [*members(False)[:4], Member(Config("relu", 2, 24, False), 0, 1.0)]
    fitted = train(chosen, split, epochs=30, batch_size=128, patience=3, fit=0.97)
    everything = train(chosen, split, epochs=30, batch_size=128)
    lengths = []
    for each, course in zip(fitted, everything, strict=True):
        curves, wait, end = course.curves, 0, 30
        for epoch in range(30):  # by hand, epoch by epoch
            fits = bool(np.max(curves.train_accuracy[: epoch + 1]) >= 0.97)
            better = curves.validation_accuracy[epoch] > np.max(curves.validation_accuracy[:epoch], initial=-1)
            first = fits and not np.max(curves.train_accuracy[:epoch], initial=-1) >= 0.97
            wait = 0 if better or first or not fits else wait + 1
            if wait == 3:
                end = epoch + 1
                break
        assert len(each.curves.epoch) == end
        lengths.append(end)
    assert lengths[-1] == 30  # it never fits
    assert len(set(lengths)) > 2
