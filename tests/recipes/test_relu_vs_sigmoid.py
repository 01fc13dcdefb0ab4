"""The recipe as a whole, in small: what it writes, that its numbers are those of the stores, that it resumes."""

import importlib
import json
import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr
from filelock import FileLock

import probekit as pk
from probekit.errors import StoreError

recipe = importlib.import_module("probekit.recipes.relu_vs_sigmoid")
networks = importlib.import_module("probekit.recipes.relu_vs_sigmoid.networks")
study_module = importlib.import_module("probekit.recipes.relu_vs_sigmoid.study")
jobs = importlib.import_module("probekit.recipes.relu_vs_sigmoid.jobs")

SMALL = {"depths": (1, 3), "widths": (16,), "seeds": 2, "epochs": 3}
BEYOND = ("gradient_norms", "selectivity", "linear_probes", "effective_ranks", "neural_collapse")
FIGURES = (*(f"fig{number}" for number in range(1, 8)), "overlap", "auroc", *BEYOND)
KINDS = ("relu-3x16", "relu-3x16-bn", "sigmoid-3x16", "sigmoid-3x16-bn")


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs")
    return recipe.run(**SMALL, out=out), out / "relu-vs-sigmoid" / "digits"


@pytest.fixture
def undrawn(monkeypatch):
    """The recipe without its pictures, which take most of the time of a small run."""
    monkeypatch.setattr(recipe.figures, "draw", lambda *args: {})
    monkeypatch.setattr(recipe.page, "report", lambda *args: args[-1] / "report.html")


def test_everything_that_is_promised_is_written(done):
    outcome, folder = done
    for name in FIGURES:
        assert (folder / "figures" / f"{name}.png").stat().st_size > 5_000
        assert len(pd.read_csv(folder / "figures" / f"{name}.csv")) > 0
    assert outcome.report == folder / "report.html"
    results = pd.read_csv(folder / "results.csv")
    assert list(results.columns) == [
        "dataset", "activation", "depth", "width", "batch_norm", "seed", "learning_rate", "epochs", "best_epoch",
        "train_accuracy", "validation_accuracy", "test_accuracy", "seconds",
    ]  # fmt: skip
    assert len(results) == 2 * 2 * 2 * 2
    assert len(pd.read_csv(folder / "curves.csv")) == len(results) * SMALL["epochs"]
    assert json.loads((folder / "config.json").read_text())["depths"] == [1, 3]
    stores = sorted(path.name for path in (folder / "acts").iterdir())
    assert len(stores) == 2 * len(KINDS)  # of one seed, before and after training
    for kind in KINDS:
        [name] = {name.rpartition("-")[0] for name in stores if re.match(rf"{kind}-s\d-", name)}
        assert {f"{name}-untrained.zarr", f"{name}-trained.zarr"} <= set(stores)


def test_medians_are_those_that_numpy_finds_in_the_store(done):
    _, folder = done
    for acts in (folder / "acts").glob("*.zarr"):
        raw = xr.open_datatree(acts, engine="zarr")
        measured = xr.open_datatree(folder / "metrics" / acts.name, engine="zarr")
        labels = raw["label"].values
        for layer in ("act1", "act3"):
            values = raw[layer]["activation"].values
            for code in range(10):
                by_hand = np.median(values[labels == code], axis=0)
                written = measured[layer]["median"].sel(label=code).values
                assert by_hand.dtype == written.dtype
                np.testing.assert_array_equal(written, by_hand)


def test_stores_hold_what_the_saved_networks_do(done):
    _, folder = done
    saved = torch.load(folder / "networks" / "3x16-bn.pt", weights_only=True)
    split = recipe.split_of(recipe.resolve({}), None, "cpu")
    for network in saved["networks"]:
        config = networks.Config(**network["member"]["config"])
        name = f"{config.name}-s{network['member']['seed']}-trained.zarr"
        if (folder / "acts" / name).exists():
            plain = networks.build(config, 64, 10, seed=0)
            plain.load_state_dict(network["trained"])
            with torch.no_grad():
                act1 = plain.eval()[:3](split.train.x)
            stored = pk.open(folder / "acts" / name)["act1"]["activation"]
            np.testing.assert_allclose(stored.values, act1.numpy(), rtol=1e-5, atol=1e-6)
            np.testing.assert_array_equal(stored["label"].values, split.train.y)


def test_the_table_is_the_share_of_inactive_samples_over_all_seeds(done):
    _, folder = done
    found = pd.read_csv(folder / "tables" / "table1.csv")
    row = found[(found.network == "ReLU BN") & (found.state == "trained") & (found.layer == 2)].iloc[0]
    trees = [
        xr.open_datatree(folder / "metrics" / f"relu-3x16-bn-s{seed}-trained.zarr", engine="zarr") for seed in (0, 1)
    ]
    shares = [100 * float(tree["act2"]["sparsity_site"]) for tree in trees]
    assert row.inactive == pytest.approx(np.mean(shares))
    assert row.standard_error == pytest.approx(np.std(shares, ddof=1) / np.sqrt(2))
    assert row.paper == 56.67
    kept = next(path for path in (folder / "acts").glob("relu-3x16-bn-s*-trained.zarr"))
    seed = int(kept.name.split("-")[3][1:])
    values = pk.open(kept)["act2"]["activation"].values
    assert shares[seed] == pytest.approx(100 * (values <= 0).mean())


def test_every_claim_is_decided_or_says_why_not(done):
    _, folder = done
    found = json.loads((folder / "claims.json").read_text())
    assert [claim["id"] for claim in found] == list(range(1, 14))
    for claim in found:
        assert claim["status"] in ("held", "not_held", "not_testable")
        assert claim["criterion"]
        assert (claim["effect"] is None) == (claim["status"] == "not_testable")
    # Three epochs don't fit the training set, so nothing may be said about trained networks.
    assert found[0]["status"] == "not_testable"
    assert "fits its training set to" in found[0]["numbers"]["reason"]
    assert "cifar10" in found[3]["numbers"]["reason"]
    assert found[9]["status"] in ("held", "not_held")  # about untrained networks


@pytest.mark.parametrize(
    ("accuracy", "epoch", "status"), [(0.5, 3, "not_testable"), (0.5, 300, "not_held"), (0.995, 3, "held")]
)
def test_a_short_training_says_nothing_of_what_a_long_one_fits(done, accuracy, epoch, status):
    study = study_module.Study.read(done[1])
    short = replace(study, curves=study.curves.assign(train_accuracy=accuracy, epoch=epoch))
    assert recipe.claims.claims(short)[5].status == status


def test_the_report_stands_alone_and_shows_every_figure(done):
    outcome, _ = done
    page = outcome.report.read_text()
    assert page.count('src="data:image/png;base64,') == len(FIGURES)
    assert not re.search(r'(src|href)="(?!data:|#)', page)
    assert (
        "probekit run relu-vs-sigmoid --dataset digits --profile quick --widths 16 --seeds 2 --depths 1,3 --epochs 3"
        in page
    )


@pytest.mark.usefixtures("undrawn")
def test_a_second_run_repeats_nothing_that_is_finished(done, monkeypatch):
    outcome, folder = done
    monkeypatch.setattr(jobs, "train", lambda *args, **kwargs: pytest.fail("trained again"))
    monkeypatch.setattr(pk, "capture", lambda *args, **kwargs: pytest.fail("captured again"))
    monkeypatch.setattr(pk, "measure", lambda *args, **kwargs: pytest.fail("measured again"))
    before = (folder / "results.csv").read_text(), (folder / "claims.json").read_text()
    assert recipe.run(**SMALL, out=folder.parents[1]).report == outcome.report
    assert ((folder / "results.csv").read_text(), (folder / "claims.json").read_text()) == before


@pytest.mark.usefixtures("undrawn")
def test_other_settings_train_again_and_leave_no_stale_result(tmp_path):
    small = {**SMALL, "depths": (1,), "seeds": 1}
    recipe.run(**small, out=tmp_path)
    recipe.run(**{**small, "epochs": 1}, out=tmp_path)
    folder = tmp_path / "relu-vs-sigmoid" / "digits"
    fresh = recipe.run(**{**small, "epochs": 1}, out=tmp_path / "fresh").report.parent
    for metrics in (fresh / "metrics").iterdir():
        xr.testing.assert_identical(
            xr.open_datatree(folder / "metrics" / metrics.name, engine="zarr")["act1"].to_dataset(),
            xr.open_datatree(metrics, engine="zarr")["act1"].to_dataset(),
        )


@pytest.mark.slow  # test_resuming kills a smaller one
@pytest.mark.usefixtures("undrawn")
def test_a_run_that_was_stopped_keeps_its_finished_networks(tmp_path, monkeypatch):
    def progress(items, description, total=None):
        for item in items:
            yield item
            if description.startswith("3x16:"):
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        recipe.run(**{**SMALL, "seeds": 1}, out=tmp_path, progress=progress)
    folder = tmp_path / "relu-vs-sigmoid" / "digits"
    assert sorted(path.name for path in (folder / "networks").iterdir()) == ["1x16-bn.pt", "1x16.pt"]
    trained = []
    real = jobs.train
    monkeypatch.setattr(jobs, "train", lambda members, *a, **k: trained.append(members[0]) or real(members, *a, **k))
    recipe.run(**{**SMALL, "seeds": 1}, out=tmp_path)
    assert [member.config.shape for member in trained] == ["3x16", "3x16-bn"]


@pytest.fixture(scope="module")
def blobs(tmp_path_factory):
    """A run on another data set, given as arrays, with a learning-rate search."""
    folder = tmp_path_factory.mktemp("blobs")
    rng = np.random.default_rng(0)
    y = np.arange(200) % 2
    x = (rng.normal(size=(200, 5)) + 3 * y[:, None]).astype(np.float32)
    np.savez(folder / "blobs.npz", x_train=x[:150], y_train=y[:150], x_test=x[150:], y_test=y[150:])
    small = {**SMALL, "depths": (2,), "seeds": 1, "search_epochs": 1, "activations": ("relu", "sigmoid", "tanh")}
    return recipe.run(dataset=str(folder / "blobs.npz"), **small, out=folder), folder


def test_two_processes_are_not_at_one_run(tmp_path, undrawn):
    folder = tmp_path / "relu-vs-sigmoid" / "digits"
    folder.mkdir(parents=True)
    with FileLock(folder / ".lock"), pytest.raises(StoreError, match=r"Another process is at this run, in .*digits"):
        recipe.run(**SMALL, out=tmp_path)
    assert [path.name for path in folder.iterdir()] == [".lock"]
    recipe.run(**SMALL | {"epochs": 1}, out=tmp_path)
    assert (folder / "claims.json").exists()


def test_other_data_sets_can_be_given_as_arrays(blobs):
    outcome, folder = blobs
    assert outcome.report == folder / "relu-vs-sigmoid" / "blobs" / "report.html"
    assert {*FIGURES, "sparsity_by_rate"} == {path.stem for path in (outcome.report.parent / "figures").iterdir()}


def test_a_search_is_recorded_and_drawn(blobs):
    folder = blobs[0].report.parent
    searched = pd.read_csv(folder / "learning_rates.csv")
    assert len(searched) == 3 * 2 * 6  # activations, with and without batch norm, rates
    results = pd.read_csv(folder / "results.csv")
    keys = ["activation", "batch_norm", "learning_rate"]
    chosen = searched[searched.chosen][keys].drop_duplicates()
    assert sorted(map(tuple, results[keys].drop_duplicates().to_numpy())) == sorted(map(tuple, chosen.to_numpy()))
    drawn = pd.read_csv(folder / "figures" / "sparsity_by_rate.csv")
    row = searched[(searched.activation == "relu") & searched.batch_norm].iloc[0]
    same = drawn[drawn.batch_norm & (drawn.learning_rate == row.learning_rate)]
    np.testing.assert_allclose(same.sort_values("layer").inactive, 100 * np.array(json.loads(row.inactive)))


def test_odd_points_are_those_of_the_stores(done):
    _, folder = done
    found = pd.read_csv(folder / "tables" / "odd_points.csv")
    row = found[(found.network == "ReLU") & (found.state == "trained") & (found.layer == 3)].iloc[0]
    medians = [
        xr.open_datatree(folder / "metrics" / f"relu-3x16-s{seed}-trained.zarr", engine="zarr")["act3"]["median"].values
        for seed in (0, 1)
    ]
    assert row.zero_medians == pytest.approx(100 * np.mean([values == 0 for values in medians]))
    untrained = found[found.state == "untrained"]
    np.testing.assert_allclose(
        untrained.errors_from_half, (untrained.inactive - 50) / untrained.standard_error, rtol=1e-6
    )


def test_runs_on_two_data_sets_merge(done, blobs, tmp_path):
    folders = (done[1], blobs[0].report.parent)
    outcome = recipe.run(merge=folders, out=tmp_path)
    folder = tmp_path / "relu-vs-sigmoid" / "digits+blobs"
    assert outcome.report == folder / "report.html"
    table = pd.read_csv(folder / "tables" / "table1.csv")
    for name, one in zip(("digits", "blobs"), folders, strict=True):
        pd.testing.assert_frame_equal(
            table[table.dataset == name].reset_index(drop=True), pd.read_csv(one / "tables" / "table1.csv")
        )
    assert set(pd.read_csv(folder / "figures" / "fig2.csv").dataset) == {"digits", "blobs"}
    panels = {"sigmoid, trained on digits", "ReLU, trained on blobs"}
    assert panels < set(pd.read_csv(folder / "figures" / "fig7.csv").panel)
    found = json.loads((folder / "claims.json").read_text())
    own = [json.loads((one / "claims.json").read_text()) for one in folders]
    for claim, *each in zip(found, *own, strict=True):
        states = [one["status"] for one in each]
        testable = [state for state in states if state != "not_testable"]
        expected = "not_held" if "not_held" in testable else "held" if testable else "not_testable"
        assert claim["status"] == expected
        assert [claim["numbers"][name]["status"] for name in ("digits", "blobs")] == states


def test_runs_on_one_data_set_do_not_merge(done, tmp_path):
    with pytest.raises(pk.errors.DataError, match="two or more different data sets; these are on digits, digits"):
        recipe.run(merge=(done[1], done[1]), out=tmp_path)
    with pytest.raises(pk.errors.DataError, match=r"no folder of a finished run"):
        recipe.run(merge=(tmp_path, done[1]), out=tmp_path)
    with pytest.raises(pk.errors.DataError, match="give --merge with --out alone"):
        recipe.run(merge=(done[1], done[1]), epochs=3, out=tmp_path)
