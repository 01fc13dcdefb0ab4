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
from sklearn.datasets import load_digits

import probekit as pk
from probekit.errors import DataError, StoreError
from probekit.progress import silent

pytestmark = pytest.mark.slow

RECIPE = "probekit.recipes.relu_vs_sigmoid"
recipe = importlib.import_module(RECIPE)
claims = importlib.import_module(f"{RECIPE}.claims")
data = importlib.import_module(f"{RECIPE}.data")
figures = importlib.import_module(f"{RECIPE}.figures")
networks = importlib.import_module(f"{RECIPE}.training.networks")
settings = importlib.import_module(f"{RECIPE}.settings")
studies = importlib.import_module(f"{RECIPE}.study")
tables = importlib.import_module(f"{RECIPE}.tables")
training = importlib.import_module(f"{RECIPE}.training.jobs")

SMALL = {"depths": (1, 3), "widths": (16,), "seeds": 2, "epochs": 3, "search_epochs": 1}
BEYOND = ("gradient_norms", "selectivity", "linear_probes", "effective_ranks", "neural_collapse", "sparsity_by_rate")
FIGURES = (*(f"fig{number}" for number in range(1, 8)), "overlap", "auroc", *BEYOND)
KINDS = ("relu-3x16", "relu-3x16-bn", "sigmoid-3x16", "sigmoid-3x16-bn")


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs")
    return recipe.run(**SMALL, out=out, export=out / "zoo"), out / "relu-vs-sigmoid" / "digits"


@pytest.fixture(scope="module")
def finished(done):
    return studies.Study.read(done[1])


@pytest.fixture(scope="module")
def blobs(tmp_path_factory):
    """A data set of two classes in a file."""
    folder = tmp_path_factory.mktemp("blobs")
    rng = np.random.default_rng(0)
    y = np.arange(200) % 2
    x = (rng.normal(size=(200, 5)) + 3 * y[:, None]).astype(np.float32)
    np.savez(folder / "blobs.npz", x_train=x[:150], y_train=y[:150], x_test=x[150:], y_test=y[150:])
    return folder / "blobs.npz"


def jobs(source, folder, progress=silent, **given):
    """The jobs of a small run, for a study without what `run` makes of it."""
    small = {"depths": (2,), "widths": (16,), "seeds": 1, "epochs": 2}
    chosen = settings.resolve({**small, **given, "source": str(source)})
    return training.Jobs(chosen, data.split_of(chosen, None, "cpu"), folder, 5, progress)


def work(jobs):
    return studies.study(jobs, jobs.settings.shapes)


def files(folder):
    """Every file of a run that is trained, captured or measured, and when it was written."""
    names = ("networks", "search", "acts", "metrics", "gradients")
    return {path: path.stat().st_mtime_ns for name in names for path in (folder / name).rglob("*") if path.is_file()}


def test_everything_that_is_promised_is_written(done):
    outcome, folder = done
    for name in FIGURES:
        assert (folder / "figures" / f"{name}.png").stat().st_size > 5_000
        assert len(pd.read_csv(folder / "figures" / f"{name}.csv")) > 0
    assert outcome.report == folder / "report.html"
    results = pd.read_csv(folder / "results.csv")
    assert list(results.columns) == [
        "dataset", "activation", "depth", "width", "batch_norm", "seed", "learning_rate", "epochs", "best_epoch",
        "fitted_epoch", "weights_epoch", "train_accuracy", "validation_accuracy", "test_accuracy", "seconds",
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
    split = data.split_of(settings.resolve({}), None, "cpu")
    for network in saved["networks"]:
        config = networks.Config(**network["member"]["config"])
        name = f"{config.name}-s{network['member']['seed']}-trained.zarr"
        if (folder / "acts" / name).exists():
            plain = networks.build(config, 64, 10, seed=0)
            plain.load_state_dict(network["best"]["weights"])
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
        assert claim["status"] in ("held", "not_held", "open", "not_testable")
        assert claim["criterion"]
        assert (claim["effect"] is None) == (claim["interval"] is None) == (claim["status"] == "not_testable")
    # Three epochs don't fit the training set, so nothing may be said about trained networks.
    assert found[0]["status"] == "not_testable"
    assert "fits its training set to" in found[0]["numbers"]["reason"]
    assert "cifar10" in found[3]["numbers"]["reason"]
    assert found[9]["status"] in ("held", "not_held", "open")  # about untrained networks


@pytest.mark.parametrize(
    ("accuracy", "epoch", "status"), [(0.5, 3, "not_testable"), (0.5, 300, "not_held"), (0.995, 3, "held")]
)
def test_a_short_training_says_nothing_of_what_a_long_one_fits(finished, accuracy, epoch, status):
    records = finished.records
    curves, results = records.curves.assign(train_accuracy=accuracy), records.results.assign(epochs=epoch)
    short = replace(records, curves=curves, results=results)
    assert claims.claims(short)[5].status == status


def test_claims_about_kinds_that_a_run_lacks_are_not_testable(finished):
    records = finished.records
    cifar = replace(records.settings, source="cifar10", widths=(200, 800))
    without = replace(
        records, settings=cifar, results=records.results[~records.results.batch_norm], layers=None, recorded={}
    )
    decided = claims.claims(without)
    for claim in decided:
        assert claim.effect is None or np.isfinite(claim.effect)
    assert "batch norm was trained" in decided[4].numbers["reason"]
    assert "of width 800 with batch norm was trained" in decided[6].numbers["reason"]


def test_claims_are_decided_anew_from_the_tables_alone(done, tmp_path):
    _, folder = done
    for name in ("config.json", "results.csv", "curves.csv", "layers.csv"):
        (tmp_path / name).write_text((folder / name).read_text())
    outcome = recipe.run(decide=(tmp_path,))
    assert outcome.report == tmp_path / "claims.json"
    found, expected = (json.loads((each / "claims.json").read_text()) for each in (tmp_path, folder))
    assert [claim["status"] for claim in found] == [claim["status"] for claim in expected]
    for one, other in zip(found, expected, strict=True):
        assert one["effect"] == pytest.approx(other["effect"])
        assert one["interval"] == pytest.approx(other["interval"])
    with pytest.raises(DataError, match=r"no folder of a run: it has no config.json, results.csv, curves.csv"):
        recipe.run(decide=(tmp_path / "none",))


def test_the_other_weights_are_measured_without_training(blobs, tmp_path):
    best = work(jobs(blobs, tmp_path, epochs=6, seeds=2))
    layers = best.records.layers  # the second study overwrites the measurements of the first

    def no_training(items, description, total=None):
        assert description == "capture and measure"
        yield from items

    last = work(jobs(blobs, tmp_path, no_training, epochs=6, seeds=2, weights_of="last"))
    assert set(last.results.weights_epoch) == {6}
    assert (best.results.weights_epoch == best.results.best_epoch).all()
    curves = last.curves[last.curves.epoch == 6]
    np.testing.assert_allclose(last.results.train_accuracy, curves.train_accuracy)
    keys = ["activation", "depth", "width", "batch_norm", "seed"]
    epochs = best.results.set_index(keys).weights_epoch
    one, other = (
        table[table.state == "trained"].set_index([*keys, "layer"])["std"] for table in (layers, last.records.layers)
    )
    moved = (one != other).groupby(keys).all()
    assert moved.any()
    assert (moved == (epochs < 6).reindex(moved.index)).all()


def test_the_report_stands_alone_and_shows_every_figure(done):
    outcome, _ = done
    page = outcome.report.read_text()
    assert page.count('src="data:image/png;base64,') == len(FIGURES)
    assert not re.search(r'(src|href)="(?!data:|#)', page)
    assert (
        "probekit run relu-vs-sigmoid --dataset digits --profile quick --widths 16 --seeds 2 --depths 1,3 --epochs 3 "
        "--search-epochs 1" in page
    )


def test_a_second_run_repeats_nothing_that_is_finished(done):
    _, folder = done
    before, results = files(folder), (folder / "results.csv").read_text()
    again = jobs("digits", folder, **SMALL)
    found = studies.study(again, reversed(again.settings.shapes))  # the order of the rows doesn't depend on the shapes'
    assert files(folder) == before
    assert (folder / "results.csv").read_text() == results
    claims.write(claims.claims(found.records), folder / "again.json")
    assert (folder / "again.json").read_text() == (folder / "claims.json").read_text()


def test_other_settings_train_again_and_leave_no_stale_result(blobs, tmp_path):
    work(jobs(blobs, tmp_path / "both"))
    work(jobs(blobs, tmp_path / "both", epochs=1))
    work(jobs(blobs, tmp_path / "fresh", epochs=1))
    for metrics in (tmp_path / "fresh" / "metrics").iterdir():
        one, other = (
            xr.open_datatree(path, engine="zarr") for path in (tmp_path / "both" / "metrics" / metrics.name, metrics)
        )
        xr.testing.assert_identical(one["act1"].to_dataset(), other["act1"].to_dataset())


def test_a_run_that_was_stopped_keeps_its_finished_networks(blobs, tmp_path):
    trained = []

    def progress(items, description, total=None):
        trained.append(description.partition(":")[0])
        for item in items:
            yield item
            if stop and description.startswith("3x16:"):
                raise KeyboardInterrupt

    stop = True
    with pytest.raises(KeyboardInterrupt):
        work(jobs(blobs, tmp_path, progress, depths=(1, 3)))
    assert sorted(path.name for path in (tmp_path / "networks").iterdir()) == ["1x16-bn.pt", "1x16.pt"]
    stop = False
    trained.clear()
    work(jobs(blobs, tmp_path, progress, depths=(1, 3)))
    assert trained == ["3x16", "3x16-bn", "capture and measure"]


def test_exported_networks_give_the_same_outputs(done):
    _, folder = done
    zoo = importlib.import_module(f"{RECIPE}.zoo")
    exported = sorted((folder.parents[1] / "zoo").glob("*.safetensors"))
    assert len(exported) == 2 * 2 * 2 * 2
    results = pd.read_csv(folder / "results.csv")
    digits = load_digits()
    for path in exported:
        told = json.loads(path.with_suffix(".json").read_text())
        network = zoo.load(path)
        shape = f"{told['depth']}x{told['width']}{'-bn' if told['batch_norm'] else ''}"
        saved = torch.load(folder / "networks" / f"{shape}.pt", weights_only=True)["networks"]
        (weights,) = (
            each["best"]["weights"]
            for each in saved
            if (each["member"]["config"]["activation"], each["member"]["seed"]) == (told["activation"], told["seed"])
        )
        plain = networks.build(networks.Config(told["activation"], told["depth"], 16, told["batch_norm"]), 64, 10, 5)
        plain.load_state_dict(weights)
        (mean,), (deviation,) = told["scaling"]["mean"], told["scaling"]["deviation"]
        x = torch.from_numpy(((digits.images.reshape(-1, 64) - mean) / deviation).astype("float32"))
        with torch.no_grad():
            assert torch.equal(network(x), plain.eval()(x))
        keys = {name: told[name] for name in ("activation", "depth", "batch_norm", "seed")}
        row = results[(results[list(keys)] == pd.Series(keys)).all(axis=1)].iloc[0]
        assert row.test_accuracy == pytest.approx(told["test_accuracy"])
        right = network(x[held_out_digits()]).argmax(1).numpy() == digits.target[held_out_digits()]
        assert right.mean() == pytest.approx(told["test_accuracy"])
    with pytest.raises(DataError, match=r"is no exported network: it takes NAME.safetensors and NAME.json"):
        zoo.load(folder / "none.safetensors")


def held_out_digits():
    """The rows of the digits that a run tests on."""
    return data.split_of(settings.resolve({}), None, "cpu").test.index.numpy()


def test_two_processes_are_not_at_one_run(tmp_path):
    folder = tmp_path / "relu-vs-sigmoid" / "digits"
    folder.mkdir(parents=True)
    message = r"Another process is working on this run, in .*digits"
    with FileLock(folder / ".lock"), pytest.raises(StoreError, match=message):
        recipe.run(**SMALL, out=tmp_path)
    assert [path.name for path in folder.iterdir()] == [".lock"]
    for _ in range(2):
        with pytest.raises(DataError, match="leave a last batch of one sample"):  # it has the folder, and leaves it
            recipe.run(**SMALL, batch_size=1220, out=tmp_path)


@pytest.fixture(scope="module")
def other(blobs, tmp_path_factory):
    """A finished study of the file, with an activation that the paper doesn't have, without its figures."""
    these = jobs(blobs, tmp_path_factory.mktemp("other"), activations=("relu", "sigmoid", "tanh"))
    these.settings.write(these.folder / "config.json")
    found = work(these)
    claims.write(claims.claims(found.records), these.folder / "claims.json")
    return found, these.folder


def test_data_from_a_file_and_further_activations_are_studied_and_drawn(other, tmp_path):
    found, _ = other
    assert set(found.results.dataset) == {"blobs"}
    wanted = figures.figures_of(found)
    assert set(wanted) == set(FIGURES) - {"sparsity_by_rate"}  # which shows a search
    chosen = {name: wanted[name] for name in ("fig4", "linear_probes")}
    drawn = figures.draw(chosen, [found], tmp_path)
    assert all(each.path.stat().st_size > 5_000 for each in drawn.values())
    assert {"tanh, trained", "ReLU, trained"} < set(pd.read_csv(tmp_path / "linear_probes.csv").network)


def test_a_search_is_recorded_and_drawn(done):
    _, folder = done
    searched = pd.read_csv(folder / "learning_rates.csv")
    assert len(searched) == 4 * 2 * 2 * 6  # shapes, activations, seeds, rates
    results = pd.read_csv(folder / "results.csv")
    keys = ["activation", "depth", "batch_norm", "learning_rate"]
    chosen = searched[searched.chosen][keys].drop_duplicates()
    assert sorted(map(tuple, results[keys].drop_duplicates().to_numpy())) == sorted(map(tuple, chosen.to_numpy()))
    drawn = pd.read_csv(folder / "figures" / "sparsity_by_rate.csv")
    row = searched[(searched.activation == "relu") & searched.batch_norm & (searched.depth == 3)].iloc[0]
    same = drawn[drawn.batch_norm & (drawn.learning_rate == row.learning_rate) & (drawn.seed == row.seed)]
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


def test_runs_on_two_data_sets_merge(done, finished, other, tmp_path):
    folders = (done[1], other[1])
    outcome = recipe.run(merge=folders, out=tmp_path)
    folder = tmp_path / "relu-vs-sigmoid" / "digits+blobs"
    assert outcome.report == folder / "report.html"
    table = pd.read_csv(folder / "tables" / "table1.csv")
    for study in (finished, other[0]):
        own = tables.sparsity_table(study)
        pd.testing.assert_frame_equal(table[table.dataset == own.dataset[0]].reset_index(drop=True), own)
    assert set(pd.read_csv(folder / "figures" / "fig2.csv").dataset) == {"digits", "blobs"}
    panels = {"sigmoid, trained on digits", "ReLU, trained on blobs"}
    assert panels < set(pd.read_csv(folder / "figures" / "fig7.csv").panel)
    found = json.loads((folder / "claims.json").read_text())
    own = [json.loads((one / "claims.json").read_text()) for one in folders]
    for claim, *each in zip(found, *own, strict=True):
        states = [one["status"] for one in each]
        order = ("not_held", "open", "held", "not_testable")
        assert claim["status"] == min(states, key=order.index)
        assert [claim["numbers"][name]["status"] for name in ("digits", "blobs")] == states


def test_runs_on_one_data_set_do_not_merge(done, tmp_path):
    with pytest.raises(pk.errors.DataError, match="two or more different data sets; these are on digits, digits"):
        recipe.run(merge=(done[1], done[1]), out=tmp_path)
    with pytest.raises(pk.errors.DataError, match=r"no folder of a finished run"):
        recipe.run(merge=(tmp_path, done[1]), out=tmp_path)
    with pytest.raises(pk.errors.DataError, match="give one of them, and --merge with --out"):
        recipe.run(merge=(done[1], done[1]), epochs=3, out=tmp_path)
