"""All trainings of a run: the search for learning rates, and what a process that is killed leaves to resume from."""

from __future__ import annotations

import signal
from pathlib import Path

import numpy as np
import pytest
import torch

from probekit.recipes.relu_vs_sigmoid.training.networks import Config, Member
from probekit.recipes.relu_vs_sigmoid.training.trainer import train
from tests.processes import run
from tests.recipes.trainings import Study, assert_same_study, digits, jobs, killed_study, no_training, small_study


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("undisturbed")


@pytest.fixture(scope="module")
def undisturbed(folder: Path) -> Study:
    return small_study(jobs(folder))


@pytest.mark.slow
@pytest.mark.parametrize(
    "sign",
    ["checkpoints/2x24-bn.pt", pytest.param("checkpoints/search-2x24-decades.pt", marks=pytest.mark.long)],
)
def test_a_killed_process_resumes_bit_identically(tmp_path: Path, undisturbed: Study, sign: str) -> None:
    assert run(killed_study, tmp_path, sign, torch.get_num_threads()).status == -signal.SIGKILL
    assert (tmp_path / sign).exists()
    assert_same_study(small_study(jobs(tmp_path)), undisturbed)
    assert not any((tmp_path / "checkpoints").iterdir())


def test_finished_trainings_are_not_repeated(undisturbed: Study, folder: Path) -> None:
    assert_same_study(small_study(jobs(folder, no_training)), undisturbed)


def test_the_search_takes_the_best_mean_over_seeds(undisturbed: Study) -> None:
    for networks, table in undisturbed:
        assert table is not None
        for _, kind in table.groupby("activation"):
            means = kind.groupby("learning_rate").validation_accuracy.mean()
            decades = means[[1e-5, 1e-4, 1e-3, 1e-2]]
            best = decades.idxmax()
            assert sorted(set(means.index) - set(decades.index)) == pytest.approx([best * 0.3, best * 3])
            chosen = kind[kind.chosen].learning_rate.unique()
            assert list(chosen) == [means.idxmax()]
            assert (kind.groupby("learning_rate").seed.nunique() == 2).all()
            (activation,) = kind.activation.unique()
            ours = [each.member for each in networks if each.member.config.activation == activation]
            assert [(member.seed, member.learning_rate) for member in ours] == [(0, chosen[0]), (1, chosen[0])]


def test_a_search_with_one_of_the_seeds_sets_the_rates_of_all(tmp_path: Path) -> None:
    for networks, table in small_study(jobs(tmp_path, search_seeds=1)):
        assert table is not None
        assert set(table.seed) == {0}
        assert {each.member.seed for each in networks} == {0, 1}
        for activation, kind in table.groupby("activation"):
            best = kind.learning_rate[kind.validation_accuracy.idxmax()]
            assert kind.learning_rate[kind.chosen].tolist() == [best]
            ours = [each.member for each in networks if each.member.config.activation == activation]
            assert [member.learning_rate for member in ours] == [best, best]


def test_searched_networks_are_those_that_train_alone(
    undisturbed: Study,
) -> None:
    table = undisturbed[0][1]
    assert table is not None
    row = table.query("activation == 'relu' and learning_rate == 0.001 and seed == 1").iloc[0]
    (alone,) = train([Member(Config("relu", 2, 24, False), 1, 1e-3)], digits(), epochs=2, batch_size=128)
    assert row.validation_accuracy == alone.best.validation_accuracy
    with torch.no_grad():
        x = digits().train.x
        layers = [alone.best.network[:2](x), alone.best.network[:4](x)]
    np.testing.assert_allclose(row.inactive, [float((layer <= 0).double().mean()) for layer in layers], rtol=1e-4)
