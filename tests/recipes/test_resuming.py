"""A training that was stopped goes on to the same bits; one that has become no better for long enough is done."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.datasets import load_digits

from probekit.progress import silent
from probekit.recipes.relu_vs_sigmoid import training
from probekit.recipes.relu_vs_sigmoid.checkpoint import Checkpoint
from probekit.recipes.relu_vs_sigmoid.data import Split, split_arrays
from probekit.recipes.relu_vs_sigmoid.jobs import Jobs
from probekit.recipes.relu_vs_sigmoid.networks import Config
from probekit.recipes.relu_vs_sigmoid.search import chosen_rates, search
from probekit.recipes.relu_vs_sigmoid.settings import resolve
from probekit.recipes.relu_vs_sigmoid.training import Member, Trained, train

T = TypeVar("T")

PROGRAM = """
import sys
from pathlib import Path
import torch
sys.path.insert(0, sys.argv[3])
torch.set_num_threads(int(sys.argv[2]))
from test_resuming import small_study
small_study(Path(sys.argv[1]))
"""


def digits() -> Split:
    data = load_digits()
    return split_arrays(data.images, data.target, tuple("0123456789"))


def members(batch_norm: bool) -> list[Member]:
    """Some that learn, some at a rate that soon makes them no better."""
    kinds = [Config(name, 2, 24, batch_norm) for name in ("relu", "sigmoid")]
    return [Member(kind, seed, rate) for kind in kinds for seed in (0, 1) for rate in (1e-3, 3e-2)][:6]


def same(one: list[Trained], other: list[Trained]) -> bool:
    pairs = list(zip(one, other, strict=True))
    return all(
        a.member == b.member
        and a.best_epoch == b.best_epoch
        and all(np.array_equal(x, y, equal_nan=True) for x, y in zip(a.curves, b.curves, strict=True))
        and all(torch.equal(v, b.trained.state_dict()[name]) for name, v in a.trained.state_dict().items())
        for a, b in pairs
    )


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
def test_a_stopped_training_goes_on_to_the_same_bits(tmp_path: Path, batch_norm: bool, after: int) -> None:
    def course(**more: object) -> list[Trained]:
        checkpoint = Checkpoint(tmp_path / f"{len(more)}.pt", 3, {"some": "key"})
        return train(
            members(batch_norm), digits(), epochs=16, batch_size=128, patience=4, checkpoint=checkpoint, **more
        )

    with pytest.raises(KeyboardInterrupt):
        course(progress=stopping(after))
    assert (tmp_path / "1.pt").exists() == (after >= 3)
    assert same(course(), course(progress=stopping(1000)))


def test_a_stopped_training_goes_on_where_other_networks_are_computed_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = digits()
    split = Split(*(replace(part, x=part.x.double()) for part in whole.parts), whole.class_names)

    def course(name: str, networks: int, **more: object) -> list[Trained]:
        weights = 64 * 24 + 24**2 + 24 * 10
        monkeypatch.setattr(training, "_STACK_BYTES", networks * 4 * 8 * weights)
        checkpoint = Checkpoint(tmp_path / name, 1, {"some": "key"})
        return train(members(True), split, epochs=16, batch_size=128, patience=4, checkpoint=checkpoint, **more)

    expected = course("expected", 6)
    assert len({len(each.curves.epoch) for each in expected}) > 1
    for networks in (1, 4):
        for then in (2, 6):
            name = f"{networks}-{then}"
            with pytest.raises(KeyboardInterrupt):
                course(name, networks, progress=stopping(7))
            for each, other in zip(course(name, then), expected, strict=True):
                assert (each.member, each.best_epoch) == (other.member, other.best_epoch)
                np.testing.assert_allclose(np.stack(each.curves), np.stack(other.curves), rtol=1e-6)
                for part, value in other.trained.state_dict().items():
                    torch.testing.assert_close(each.trained.state_dict()[part], value, rtol=1e-6, atol=1e-9)


def test_patience_ends_a_member_as_it_would_alone() -> None:
    whole = digits()
    split = Split(*(replace(part, x=part.x.double()) for part in whole.parts), whole.class_names)
    chosen = members(False)[:4]
    together = train(chosen, split, epochs=30, batch_size=128, patience=5)
    everything = train(chosen, split, epochs=30, batch_size=128)
    assert len({len(each.curves.epoch) for each in together}) > 2
    for each, course in zip(together, everything, strict=True):
        (alone,) = train([each.member], split, epochs=30, batch_size=128, patience=5)
        assert alone.best_epoch == each.best_epoch
        np.testing.assert_allclose(np.stack(alone.curves), np.stack(each.curves), rtol=1e-6)
        for name, value in alone.trained.state_dict().items():
            torch.testing.assert_close(each.trained.state_dict()[name], value, rtol=1e-6, atol=1e-9)
        # It is done at the first epoch that ends five without a better one.
        accuracy = course.curves.validation_accuracy
        waits = [epoch - int(np.argmax(accuracy[: epoch + 1])) for epoch in range(30)]
        assert len(each.curves.epoch) == (waits.index(5) + 1 if 5 in waits else 30)
        np.testing.assert_allclose(each.curves.validation_accuracy, accuracy[: len(each.curves.epoch)])


def test_a_checkpoint_of_other_settings_is_not_used(tmp_path: Path) -> None:
    def course(key: str, seed: int) -> list[Trained]:
        checkpoint = Checkpoint(tmp_path / "one.pt", 1, {"key": key})
        chosen = [Member(Config("relu", 1, 8, False), seed, 1e-3)]
        return train(chosen, digits(), epochs=2, batch_size=64, checkpoint=checkpoint)

    first, other = course("a", 0), course("b", 1)
    assert not same(first, other)
    assert same(course("b", 1), other)


def small_study(folder: Path) -> tuple[list[pd.DataFrame], list[list[Trained]]]:
    """A learning-rate search and then a training for each of two shapes."""
    settings = resolve(
        {
            "depths": (2,),
            "widths": (24,),
            "seeds": 2,
            "epochs": 16,
            "patience": 4,
            "search_epochs": 2,
            "batch_size": 128,
        }
    )
    jobs = Jobs(settings, digits(), folder, checkpoint_every=2, progress=silent)
    searched, trained = [], []
    for configs in settings.shapes:
        searched.append(search(configs, jobs))
        rates = chosen_rates(searched[-1], configs)
        trained.append(jobs.networks([Member(kind, seed, rates[kind]) for kind in configs for seed in range(2)]))
    return searched, trained


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[pd.DataFrame], list[list[Trained]]]:
    return small_study(tmp_path_factory.mktemp("undisturbed"))


@pytest.mark.parametrize(
    "sign",
    ["checkpoints/2x24-bn.pt", pytest.param("checkpoints/search-2x24-decades.pt", marks=pytest.mark.slow)],
)
def test_a_killed_process_goes_on_to_the_same_numbers(
    tmp_path: Path, undisturbed: tuple[list[pd.DataFrame], list[list[Trained]]], sign: str
) -> None:
    here, threads = Path(__file__).parent, torch.get_num_threads()
    process = subprocess.Popen([sys.executable, "-c", PROGRAM, str(tmp_path), str(threads), str(here)])
    while not (tmp_path / sign).exists():
        assert process.poll() is None
        time.sleep(0.002)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert (tmp_path / sign).exists(), "it was killed too late"
    searched, trained = small_study(tmp_path)
    for found, expected in zip(searched, undisturbed[0], strict=True):
        pd.testing.assert_frame_equal(found.drop(columns="seconds"), expected.drop(columns="seconds"))
    assert all(same(*pair) for pair in zip(trained, undisturbed[1], strict=True))
    assert not any((tmp_path / "checkpoints").iterdir())


def test_the_search_takes_the_best_mean_over_seeds(undisturbed: tuple[list[pd.DataFrame], list[list[Trained]]]) -> None:
    for table in undisturbed[0]:
        for _, kind in table.groupby("activation"):
            means = kind.groupby("learning_rate").validation_accuracy.mean()
            decades = means[[1e-5, 1e-4, 1e-3, 1e-2]]
            best = decades.idxmax()
            assert sorted(set(means.index) - set(decades.index)) == pytest.approx([best * 0.3, best * 3])
            chosen = kind[kind.chosen].learning_rate.unique()
            assert list(chosen) == [means.idxmax()]
            assert (kind.groupby("learning_rate").seed.nunique() == 2).all()


def test_searched_networks_are_those_that_train_alone(
    undisturbed: tuple[list[pd.DataFrame], list[list[Trained]]],
) -> None:
    row = undisturbed[0][0].query("activation == 'relu' and learning_rate == 0.001 and seed == 1").iloc[0]
    (alone,) = train([Member(Config("relu", 2, 24, False), 1, 1e-3)], digits(), epochs=2, batch_size=128)
    assert row.validation_accuracy == alone.validation_accuracy
    with torch.no_grad():
        x = digits().train.x
        layers = [alone.trained[:2](x), alone.trained[:4](x)]
    np.testing.assert_allclose(row.inactive, [float((layer <= 0).double().mean()) for layer in layers], rtol=1e-4)
