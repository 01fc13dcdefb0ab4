"""The settings of a run: from a profile, the file of another run, and single options."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from probekit.errors import DataError, ModelError
from probekit.recipes.relu_vs_sigmoid.settings import Settings, rates, resolve
from probekit.recipes.relu_vs_sigmoid.training.networks import Config

KINDS = ("relu", "relu-bn", "sigmoid", "sigmoid-bn")


def test_the_papers_grid_has_192_networks_on_two_data_sets() -> None:
    settings = [resolve({"source": source, "profile": "paper"}) for source in ("mnist", "cifar10")]
    assert sum(len(configs) * each.seeds for each in settings for configs in each.shapes) == 192
    assert {each.epochs for each in settings} == {300}
    assert len({config.name for configs in settings[0].shapes for config in configs}) == 32


@pytest.mark.parametrize(
    ("source", "profile", "depths", "epochs"),
    [("digits", "quick", (2, 4), 30), ("some.npz", "quick", (2, 4), 30), ("mnist", "section3", (4,), 300)],
)
def test_the_profile_depends_on_the_data(source: str, profile: str, depths: tuple[int, ...], epochs: int) -> None:
    settings = resolve({"source": source, "epochs": None})
    assert (settings.profile, settings.depths, settings.epochs) == (profile, depths, epochs)


def test_a_saved_configuration_comes_back_and_options_override_it(tmp_path: Path) -> None:
    given = {
        "source": "mnist",
        "profile": "paper",
        "seeds": 2,
        "learning_rate": 1e-3,
        "activations": ("relu", "sigmoid", "tanh"),
    }
    settings = resolve(given)
    settings.write(tmp_path / "config.json")
    assert resolve({}, tmp_path / "config.json") == settings
    changed = resolve({"seeds": 5, "source": "cifar10"}, tmp_path / "config.json")
    assert (changed.seeds, changed.dataset, changed.learning_rate, changed.profile) == (5, "cifar10", 1e-3, "paper")


def test_probed_networks_are_the_papers_or_the_nearest() -> None:
    def names(**given: Any) -> list[str]:
        return [config.name for config in resolve(given).probed]

    assert names(profile="paper")[0] == "relu-4x200"
    assert names(depths=(2, 3), widths=(64, 32))[0] == "relu-3x32"
    assert [config.name for config in resolve({"profile": "paper"}).deepest] == [
        "relu-8x200", "relu-8x200-bn", "sigmoid-8x200", "sigmoid-8x200-bn",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"profile": "papr"}, "no profile 'papr'.*Near: 'paper'"),
        ({"depths": ()}, r"depths is \(\); it takes whole numbers from 1"),
        ({"patience": -1}, "patience is -1; it takes whole numbers from 0"),
        ({"search_seeds": 0}, "search_seeds is 0; it takes 1 to 3, the seeds"),
        ({"search_seeds": 4}, "search_seeds is 4; it takes 1 to 3, the seeds"),
        ({"fit": 1.5}, "fit is 1.5; it is a share of the training samples, above 0 and at most 1"),
        ({"fit_first": True}, "patience is 0; give a patience"),
        ({"epochs": 0}, "epochs is 0"),
        ({"weights_of": "latest"}, "weights_of is 'latest'; it is best .* or last"),
        ({"learning_rate": 0.0}, "learning_rate has 0.0; a rate is above 0"),
        ({"learning_rate": {**dict.fromkeys(KINDS, 1e-3), "relu": float("nan")}}, "learning_rate has nan"),
        ({"learning_rate": {"relu": 1e-3, "relu-bn": 1e-3}}, "no rate for sigmoid, sigmoid-bn"),
        ({"learning_rate": {**dict.fromkeys(KINDS, 1e-3), "tanh": 1e-3}}, "a rate for tanh; the run trains relu, relu"),
        ({"activations": ("relu", "tanh")}, "add sigmoid to the activations"),
    ],
)
def test_impossible_settings(given: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        resolve(given)
    with pytest.raises(ModelError, match=r"No activation 'tahn'.*Near: 'tanh'"):
        resolve({"activations": ("relu", "sigmoid", "tahn")})


def test_a_learning_rate_of_each_kind(tmp_path: Path) -> None:
    given = rates(["relu=1e-3", "relu-bn=3e-3", "sigmoid=3e-3", "sigmoid-bn=1e-2"])
    settings = resolve({"learning_rate": given})
    assert settings.rate(Config("sigmoid", 2, 200, True)) == 1e-2
    settings.write(tmp_path / "config.json")
    assert resolve({}, tmp_path / "config.json") == settings
    assert resolve({"learning_rate": rates(["1e-3"])}).rate(Config("relu", 2, 200, True)) == 1e-3
    assert resolve({}).rate(Config("relu", 2, 200, True)) is None


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["1e-3x"], "could not convert.*Give one rate"),
        (["1e-3", "1e-2"], "more than one rate for a kind"),
        (["relu=1e-3", "1e-2"], "more than one rate for a kind"),
        (["relu=1e-3", "relu=1e-2"], "more than one rate for a kind"),
    ],
)
def test_impossible_learning_rates(given: list[str], message: str) -> None:
    with pytest.raises(DataError, match=message):
        rates(given)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "can't be read"),
        ("[1]", "is no JSON object of settings"),
        (json.dumps({"epoch": 3}), "sets 'epoch', which is no setting.*Near: 'epochs'"),
    ],
)
def test_files_that_are_no_configuration(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(DataError, match=message):
        resolve({}, tmp_path / "config.json")


def test_a_profile_beside_a_file_is_refused(tmp_path: Path) -> None:
    settings = resolve({})
    assert isinstance(settings, Settings)
    settings.write(tmp_path / "config.json")
    with pytest.raises(DataError, match="--config or --profile, not both"):
        resolve({"profile": "paper"}, tmp_path / "config.json")
