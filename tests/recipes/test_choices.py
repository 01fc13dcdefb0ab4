"""The choices that the paper doesn't report: networks that differ in them, and their distance to Table 1."""

from __future__ import annotations

import importlib
import json
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.preprocessing import MinMaxScaler, StandardScaler

from probekit.errors import DataError
from probekit.recipes.relu_vs_sigmoid.choices import figure, screening, variants
from probekit.recipes.relu_vs_sigmoid.data import Samples, Split, split_arrays
from probekit.recipes.relu_vs_sigmoid.tables import PAPER
from probekit.recipes.relu_vs_sigmoid.training.networks import Config, Member, build
from probekit.recipes.relu_vs_sigmoid.training.trainer import train

recipe = importlib.import_module("probekit.recipes.relu_vs_sigmoid.choices")


def images() -> np.ndarray:
    """Colour images of which one pixel is always 7."""
    x = np.random.default_rng(0).integers(0, 256, size=(60, 3, 4, 5)).astype(np.uint8)
    x[0, 0, 0, :2] = 0, 255
    x[:, 1, 2, 3] = 7
    return x


@pytest.fixture(scope="module")
def scaled() -> dict[str, np.ndarray]:
    """The images as each scaling gives them, (n, features)."""
    x = images()
    flat = torch.from_numpy(x.reshape(60, -1).astype(np.float32))
    names = (*variants.SCALINGS, "minus0.25-to-1", "0-to-4", "minus2-to-minus1")
    return {name: scale(flat).numpy() for name, scale in variants.scalings(x, names).items()}


def test_scalings_are_those_of_scikit_learn(scaled: dict[str, np.ndarray]) -> None:
    x = images().astype(np.float64)
    column, flat = x.reshape(-1, 1), x.reshape(60, -1)
    expected = {
        "0-to-1": MinMaxScaler().fit_transform(column).reshape(60, -1),
        "minus1-to-1": MinMaxScaler((-1, 1)).fit_transform(column).reshape(60, -1),
        "set": StandardScaler().fit_transform(column).reshape(60, -1),
        "channel": np.moveaxis(
            StandardScaler().fit_transform(np.moveaxis(x, 1, 3).reshape(-1, 3)).reshape(60, 4, 5, 3), 3, 1
        ).reshape(60, -1),
        "pixel": StandardScaler().fit_transform(flat),
        "minus0.25-to-1": MinMaxScaler((-0.25, 1)).fit_transform(column).reshape(60, -1),
        "0-to-4": MinMaxScaler((0, 4)).fit_transform(column).reshape(60, -1),
        "minus2-to-minus1": MinMaxScaler((-2, -1)).fit_transform(column).reshape(60, -1),
    }
    assert set(scaled) == set(expected)
    for name, values in expected.items():
        np.testing.assert_allclose(scaled[name], values, atol=2e-6, err_msg=name)


def test_the_usual_scaling_is_that_of_the_recipe(scaled: dict[str, np.ndarray]) -> None:
    x, y = np.moveaxis(images(), 1, 3), np.arange(60) % 2  # channels last
    split = split_arrays(x, y, ("a", "b"), validation_size=10, test_size=10)
    raw = split_arrays(x, y, ("a", "b"), validation_size=10, test_size=10, scaled=False)
    found = variants.scalings(x[raw.train.index.numpy()], ["channel"])["channel"](raw.test.x)
    torch.testing.assert_close(found, split.test.x, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", list(variants.INITIALISATIONS))
def test_weights_start_as_he_says(name: str) -> None:
    weight = variants.INITIALISATIONS[name](torch.empty(300, 500), torch.Generator().manual_seed(0))
    fan = 500 if name.startswith("fan-in") else 300
    assert weight.std().item() == pytest.approx(np.sqrt(2 / fan), rel=0.01)
    if name.endswith("uniform"):
        assert weight.abs().max().item() == pytest.approx(np.sqrt(6 / fan), rel=0.001)
    else:
        assert weight.abs().max().item() > 3 * np.sqrt(2 / fan)


@pytest.mark.parametrize("norm", [False, True])
def test_a_variant_is_what_a_plain_network_on_scaled_samples_is(norm: bool) -> None:
    """Networks that see other samples, trained together, against each trained alone on samples scaled beforehand."""
    x = images()
    y = np.random.default_rng(1).integers(0, 2, 60)
    x[y == 1, 0, :2] //= 2
    raw = split_arrays(x, y, ("a", "b"), validation_size=10, test_size=10, scaled=False)
    raw = Split(*(replace(each, x=each.x.double()) for each in raw.subsets), raw.class_names)
    scales = variants.scalings(x[raw.train.index.numpy()], variants.SCALINGS)
    config = Config("relu", 2, 12, norm)
    chosen = [
        variants.Variant(config, 0, rate, scaling, "fan-in-normal")
        for rate, scaling in ((1e-2, "pixel"), (1e-3, "0-to-1"))
    ]
    together = train(chosen, raw, epochs=3, batch_size=8, build=variants.builder(scales))
    for member, result in zip(chosen, together, strict=True):
        module = scales[member.scaling].double()
        split = Split(*(Samples(module(s.x), s.y, s.index) for s in raw.subsets), raw.class_names)
        (alone,) = train([Member(config, 0, member.learning_rate)], split, epochs=3, batch_size=8)
        assert list(result.last.network._modules)[:2] == ["scale", "linear1"]
        for name, value in alone.last.network.state_dict().items():
            torch.testing.assert_close(result.last.network.state_dict()[name], value, rtol=1e-6, atol=1e-8)
        assert result.best.test_accuracy == alone.best.test_accuracy
        assert torch.equal(result.untrained.linear1.weight, build(config, 60, 2, 0).linear1.weight.double())


def rows() -> pd.DataFrame:
    """A screening in which every layer of a network is so far from Table 1."""
    apart = {("channel", 1e-3, False): 4, ("channel", 3e-3, False): 2, ("channel", 1e-3, True): 3}
    apart |= {("channel", 3e-3, True): 9, ("pixel", 1e-3, False): 1, ("pixel", 3e-3, False): 8}
    apart |= {("pixel", 1e-3, True): 5, ("pixel", 3e-3, True): 7}
    table = [
        {
            "dataset": "mnist", "batch_norm": norm, "scaling": scaling, "learning_rate": rate, "batch_size": 128,
            "initialisation": "fan-in-normal", "weights_of": "best", "samples": samples, "seed": 0, "test_accuracy": 98,
            **{
                layer: value + (points if samples == "train" else points + 20)
                for layer, value in zip(screening.LAYERS, PAPER["mnist"][norm, "trained"], strict=True)
            },
        }
        for (scaling, rate, norm), points in apart.items()
        for samples in ("train", "test")
    ]  # fmt: skip
    return pd.DataFrame(table)


def test_the_nearest_setting_has_a_rate_for_each_kind_and_is_judged_by_its_worst() -> None:
    ranked = screening.nearest(rows())
    best = ranked[ranked.setting == 1]
    assert best.scaling.tolist() == ["channel"] * 2
    assert best.learning_rate.tolist() == [3e-3, 1e-3]
    assert best.samples.tolist() == ["train"] * 2
    np.testing.assert_allclose(best[["worst", "average"]].iloc[0], [3, 2.5])
    second = ranked[ranked.setting == 2]
    assert (second.scaling.iloc[0], second.learning_rate.tolist()) == ("pixel", [1e-3, 1e-3])
    np.testing.assert_allclose(second.worst, 5)
    chosen = screening.first(ranked, 2)  # the third and the fourth count the same networks otherwise
    assert chosen.setting.drop_duplicates().tolist() == [1, 2]


def test_each_number_is_reached_as_near_as_any_network_comes() -> None:
    found = screening.reached(rows()).set_index(["batch_norm", "layer"])
    assert found.loc[(False, "layer2"), "paper"] == 79.33
    np.testing.assert_allclose(found.distance.loc[False], 1)
    np.testing.assert_allclose(found.distance.loc[True], 3)
    np.testing.assert_allclose(found.highest - found.lowest, [27, 27, 27, 27, 26, 26, 26, 26])


def test_a_figure_varies_one_choice_at_a_time() -> None:
    numbers = figure.by_choice(rows())
    assert set(numbers.choice) == {"learning_rate", "scaling", "samples"}
    ours = numbers[(numbers.choice == "learning_rate") & (numbers.value == 3e-3) & ~numbers.batch_norm]
    np.testing.assert_allclose(ours.inactive, np.array(PAPER["mnist"][False, "trained"]) + 2)
    assert len(figure.draw(numbers).axes) == 2 * 3


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a small data set of MNIST's name."""
    folder = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    y = np.arange(480) % 4
    x = (rng.integers(0, 100, (480, 6, 6)) + 40 * y[:, None, None]).astype(np.uint8)
    np.savez(folder / "mnist.npz", x_train=x[:400], y_train=y[:400], x_test=x[400:], y_test=y[400:])
    return folder


SMALL = {
    "datasets": ("mnist",),
    "scalings": ("0-to-1", "channel"),
    "learning_rates": (1e-3, 3e-3),
    "batch_sizes": (64,),
    "initialisations": ("fan-in-normal",),
    "epochs": 2,
    "best": 1,
    "seeds": 2,
    "full_epochs": 3,
}


def test_the_recipe_screens_ranks_and_trains_the_nearest_in_full(folder: Path, tmp_path: Path) -> None:
    outcome = recipe.run(**SMALL, data_dir=folder, out=tmp_path)
    out = tmp_path / "relu-vs-sigmoid-settings"
    assert outcome.report == out / "report.html"
    assert (out / "by_choice.png").stat().st_size > 5_000
    screened = pd.read_csv(out / "screening.csv")
    assert len(screened) == 2 * 2 * 2 * 2 * 2  # norms, scalings, rates, weights, samples
    finished = pd.read_csv(out / "full.csv")
    assert set(zip(finished.seed, finished.epochs, strict=True)) == {(0, 3), (1, 3)}
    assert finished.setting.nunique() == 1
    by_layer = pd.read_csv(out / "full_by_layer.csv")
    assert len(by_layer) == 2 * 4
    drawn = figure.draw_full(by_layer)
    for ax, norm in zip(drawn.axes, (False, True), strict=True):
        ours, paper = ax.lines[0].get_ydata(), ax.lines[-1].get_ydata()
        np.testing.assert_array_equal(ours, by_layer.inactive[by_layer.batch_norm == norm])
        np.testing.assert_array_equal(paper, PAPER["mnist"][norm, "trained"])
    assert (out / "full_by_layer.png").stat().st_size > 5_000
    row = by_layer[(by_layer.layer == "layer3") & by_layer.batch_norm].iloc[0]
    ours = finished[finished.batch_norm]
    assert row.inactive == pytest.approx(ours.layer3.mean())
    assert row.difference == pytest.approx(ours.layer3.mean() - 68.77)
    assert json.loads((out / "config.json").read_text())["scalings"] == ["0-to-1", "channel"]

    def no_training(items: object, /, description: str, total: int | None = None) -> object:
        raise AssertionError(f"trained again: {description}")

    recipe.run(**SMALL, data_dir=folder, out=tmp_path, progress=no_training)
    pd.testing.assert_frame_equal(pd.read_csv(out / "full.csv"), finished)


def test_screenings_are_ranked_together(folder: Path, tmp_path: Path) -> None:
    table = rows()
    parts = {"no": table[~table.batch_norm], "yes": table[table.batch_norm & (table.scaling == "channel")]}
    for name, part in parts.items():
        (tmp_path / name).mkdir()
        part.assign(epochs=3).to_csv(tmp_path / name / "screening.csv", index=False)
    folders = (tmp_path / "no", tmp_path / "yes")
    outcome = recipe.run(merge=folders, out=tmp_path)
    ranked = pd.read_csv(tmp_path / "relu-vs-sigmoid-settings" / "nearest.csv")
    assert set(ranked.scaling) == {"channel"}  # the other has no networks with batch norm
    assert ranked.worst.iloc[0] == pytest.approx(3)
    assert outcome.report.exists()
    out = tmp_path / "relu-vs-sigmoid-settings"
    assert not (out / "full.csv").exists()
    assert json.loads((out / "config.json").read_text())["merge"] == ["no", "yes"]
    recipe.run(merge=folders, best=1, seeds=2, full_epochs=2, data_dir=folder, out=tmp_path)
    finished = pd.read_csv(out / "full.csv")
    assert set(zip(finished.scaling, finished.seed, finished.epochs, strict=True)) == {
        ("channel", 0, 2),
        ("channel", 1, 2),
    }
    assert set(zip(finished.batch_norm, finished.learning_rate, strict=True)) == {(False, 3e-3), (True, 1e-3)}
    with pytest.raises(DataError, match="There is no finished run, with a screening"):
        recipe.run(merge=(tmp_path / "none",), out=tmp_path)
    with pytest.raises(DataError, match="give --merge without epochs"):
        recipe.run(merge=folders, epochs=5, out=tmp_path)
    with pytest.raises(DataError, match=r"would replace that in .*give another --out"):
        recipe.run(merge=(tmp_path / "relu-vs-sigmoid-settings",), out=tmp_path)


def test_inactive_samples_are_counted_by_hand(folder: Path, tmp_path: Path) -> None:
    given = {**SMALL, "best": 0, "learning_rates": (1e-3,), "scalings": ("0-to-1",), "batch_norm": "no"}
    recipe.run(**given, data_dir=folder, out=tmp_path)
    table = pd.read_csv(tmp_path / "relu-vs-sigmoid-settings" / "screening.csv")
    settings = importlib.import_module("probekit.recipes.relu_vs_sigmoid.settings").resolve({"source": "mnist"})
    split, scales = variants.raw_split(settings, ["0-to-1"], folder, "cpu")
    member = variants.Variant(Config("relu", 4, 200, False), 0, 1e-3, "0-to-1", "fan-in-normal")
    (alone,) = train([member], split, epochs=2, batch_size=64, build=variants.builder(scales))
    for weights_of, samples in product(("best", "last"), ("train", "test")):
        row = table[(table.weights_of == weights_of) & (table.samples == samples)].iloc[0]
        h = getattr(split, samples).x / 255 * 255 / split.train.x.max()
        network = alone.trained(weights_of).network
        for layer in range(1, 5):
            h = network.get_submodule(f"linear{layer}")(h).relu()
            assert row[f"layer{layer}"] == pytest.approx(100 * (h <= 0).double().mean().item(), abs=0.02)
        assert row.test_accuracy == pytest.approx(100 * alone.trained(weights_of).test_accuracy)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"datasets": ("mnits",)}, "Table 1 has no 'mnits'; it has mnist and cifar10.*Near: 'mnist'"),
        ({"datasets": ("mnist", "mnist")}, "datasets is mnist,mnist; give mnist, cifar10 or both"),
        ({"scalings": ("pixels",)}, "no 'pixels' among the scalings; there are: set, .*ranges.*Near: 'pixel'"),
        ({"scalings": ("1-to-0",)}, "no '1-to-0' among the scalings.*from a lower to a higher number"),
        (
            {"scalings": ("-1-to-1",)},
            "no '-1-to-1' among the scalings.*as 0-to-1 or minus1-to-1.*Near: '0-to-1', 'minus1-to-1'",
        ),
        ({"initialisations": ("he",)}, "no 'he' among the initialisations; there are: fan-in-normal"),
        ({"learning_rates": (1e-3, 1e-3)}, "learning_rates is 0.001,0.001; give values that differ"),
        ({"learning_rates": (0.0,)}, "Learning rates are above 0"),
        ({"batch_norm": "maybe"}, "batch_norm is 'maybe'; it is no, yes, both"),
        ({"epochs": 0}, "epochs is 0; it takes whole numbers from 1"),
        ({"best": -1}, "best is -1"),
    ],
)
def test_impossible_choices(given: dict[str, object], message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=message):
        recipe.run(**{**SMALL, **given}, out=tmp_path)
    assert not any(tmp_path.iterdir())
