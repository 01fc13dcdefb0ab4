"""The report of a store or of results: what it says, what it warns of, and what it refuses."""

from __future__ import annotations

import base64
import io
import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
import xarray as xr
from torch import nn

import probekit as pk
from probekit._measure.top_samples import TopSample
from probekit.errors import DataError, SiteError, StoreError
from probekit.report.local_paths import without_folders
from probekit.report.samples import shown_samples
from tests.report.parsed import Parsed
from tests.report.unpacked import explorer_data, unpacked

HOSTILE = "</script><img src=x onerror=alert(1)>"
NAMES = ["ant", HOSTILE, "cat"]
RNG = np.random.default_rng(0)
LABELS = np.arange(150) % 3
IMAGES = torch.from_numpy(RNG.random((150, 1, 6, 6)).astype(np.float32)) + torch.from_numpy(LABELS)[:, None, None, None]


def _net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(36, 8), nn.ReLU(), nn.Linear(8, 3))


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("stores") / "acts.zarr"
    pk.capture(_net(), (IMAGES, torch.from_numpy(LABELS)), path, sites=["2", "3"], predictions=True, class_names=NAMES)
    return path


@pytest.fixture(scope="module")
def page(store: Path) -> str:
    data = (IMAGES, torch.from_numpy(LABELS))
    return pk.report.write(store, store.parent / "report.html", data=data).read_text("utf-8")


def texts(html: str) -> str:
    return " ".join(text for _, text in Parsed(re.sub(r"<script>.*?</script>", "", html, flags=re.S)).text)


def test_it_says_which_model_and_data_and_how_to_make_it_again(page: str, store: Path) -> None:
    found = texts(page)
    info = pk.info(store)
    assert info.accuracy is not None
    assert Parsed(page).within("dd")[:5] == [f"{info.accuracy:.1%}", "150", "3", "2", "11"]
    for text in ("torch.nn.modules.container.Sequential", info.attrs["created"]):
        assert text in found
    brief = f"…/{store.parent.name}/acts.zarr"
    assert str(store) not in page
    assert info.attrs["command"].replace(str(store), brief) in found
    assert f"probekit.report.write({brief!r}" in found
    assert "again, with … for folders" in found


def test_the_numbers_of_each_site_are_those_of_the_summary(page: str, store: Path) -> None:
    head, *rows = [row for row in Parsed(page).cells if row][:3]
    summary = pk.summary(pk.measure(store)).to_dataframe().set_index(["site", "metric"])["value"]
    assert [row[0] for row in rows] == ["2", "3"]
    for row in rows:
        for metric in ("auroc", "effective_rank", "mean"):
            assert float(row[head.index(metric)]) == pytest.approx(summary[row[0], metric], rel=1e-3)


def test_each_class_has_its_best_node_and_the_samples_with_the_largest_values(page: str, store: Path) -> None:
    measured = pk.measure(store, "auroc")
    with warnings.catch_warnings(action="ignore"):
        tree = pk.open(store)
    headings = [text for text in Parsed(page).within("h3") if ": node" in text]
    assert len(headings) == 3
    for c, heading in enumerate(headings):
        values = {site: measured[site]["auroc_rest"].sel(label=c).values for site in ("2", "3")}
        site = max(values, key=lambda each: values[each].max())
        node = int(values[site].argmax())
        assert heading == f"{NAMES[c]}: node {node} of {site}"
        strongest = int(tree[site]["activation"].values[:, node].argmax())
        captions = [attrs["alt"] for attrs in Parsed(page).all("img") if f"sample {strongest}," in attrs["alt"]]
        assert captions
        assert captions[0].startswith(NAMES[LABELS[strongest]])


def test_variables_of_a_class_and_the_others_are_said_to_be_that(page: str) -> None:
    said = texts(page)
    assert "AUROC of each class against the others, at each site: the largest of its nodes." in said
    assert "Overlap of each class against the others, at each site: the mean of its nodes." in said
    assert "with the largest auroc_rest (auroc of the class against the others), over all sites." in said


def test_thumbnails_are_the_inputs(page: str) -> None:
    [*images] = [attrs for attrs in Parsed(page).all("img") if ", sample " in attrs["alt"]]
    assert len(images) == 3 * 8
    for attrs in images:
        sample = int(re.findall(r"sample (\d+)", attrs["alt"])[0])
        pixels = np.asarray(PIL.Image.open(io.BytesIO(base64.b64decode(attrs["src"].partition(",")[2]))), float)
        given = IMAGES[sample, 0].numpy()
        stretched = given if given.max() <= 1 else (given - given.min()) / np.ptp(given)
        np.testing.assert_allclose(pixels / 255, stretched, atol=1 / 255)


def test_what_comes_from_a_store_is_escaped(page: str) -> None:
    parsed = Parsed(page)
    assert all("onerror" not in attrs for attrs in parsed.all("img"))
    assert len(parsed.all("script")) == page.count("</script>") == 7
    assert f"{HOSTILE}: node" in " ".join(parsed.within("h3"))


def test_the_explorer_has_distributions(page: str) -> None:
    sites = explorer_data(page)["sites"]
    assert [(site["name"], site["shown"]) for site in sites] == [("2", 8), ("3", 3)]
    assert all(site["cells"] for site in sites)


def test_it_warns_of_few_samples_dead_nodes_and_missing_values(tmp_path: Path) -> None:
    x = np.concatenate([np.zeros((60, 2)), RNG.normal(size=(60, 2))], axis=1).astype(np.float32)
    labels = np.array([0] * 40 + [1] * 20)
    root = xr.Dataset(
        {"class_name": ("label", np.array(["ant", "bee"], dtype=object))},
        {"label": ("sample", labels), "sample_id": ("sample", np.arange(60))},
        {"weights_from": "random, seed 0"},
    )
    tree = xr.DataTree.from_dict({"/": root, "site": xr.Dataset({"activation": (("sample", "node"), x)})})
    metrics = ["overlap", "selectivity"]
    warned = Parsed(pk.report.write(tree, tmp_path / "r.html", metrics=metrics).read_text("utf-8")).within("li")
    assert any("never trained" in text for text in warned)
    assert any(text.startswith("1 of 2 classes have fewer than 30 samples, bee (20)") for text in warned)
    assert "2 nodes have the same value for every sample: 2 of 4 at site." in warned
    assert any("selectivity is missing for 2 of 4 values at site" in text for text in warned)
    for metrics in ("sparsity", "dead"):  # which know of nodes that are off, and not of those that never change
        written = pk.report.write(tree, tmp_path / "r.html", metrics=metrics).read_text("utf-8")
        assert "2 nodes have no sample that turns them on: 2 of 4 at site." in Parsed(written).within("li")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("hf:/users/ann/models/base", "hf:~/models/base"),
        (
            "probekit capture imagefolder:/projects/here/photos '/data/groups/ann/a.zarr' --weights=/users/ann/w.pt",
            "probekit capture imagefolder:photos '…/ann/a.zarr' --weights=~/w.pt",
        ),
        ('{"data": "/data/groups/x.npz", "n": 1/2}', '{"data": "…/groups/x.npz", "n": 1/2}'),
        ("https://host/data/groups/ann s3://bucket/a/b ../photos/cat timm/vit/base", None),
    ],
)
def test_folders_of_this_machine_are_left_out(monkeypatch: pytest.MonkeyPatch, text: str, shown: str | None) -> None:
    monkeypatch.setattr("os.getcwd", lambda: "/projects/here")
    monkeypatch.setenv("HOME", "/users/ann")
    assert without_folders(text) == (text if shown is None else shown)


def test_approximate_results_say_so(tmp_path: Path) -> None:
    values = RNG.normal(size=(20_000, 2))
    values[1_000:1_600] = 1.3 + RNG.normal(0, 1e-4, (600, 2))  # values crowd twice, and cells are finer at one place
    values[2_000:3_000] = 2.6 + RNG.normal(0, 1e-4, (1_000, 2))
    x = torch.from_numpy(values.astype(np.float32))
    with pytest.warns(
        UserWarning, match=r"can't be told apart at '0' \(2 nodes, up to .*error_bound says how far ks may"
    ):
        live = pk.measure_live(nn.Sequential(nn.Identity()), (x, torch.arange(20_000) % 2), ["median", "ks"], sites="0")
    share, bound = (live["0"]["ks"].attrs[name] for name in ("cell_share", "error_bound"))
    assert 0.01 < share < bound < 0.1
    warned = Parsed(pk.report.write(live, tmp_path / "r.html").read_text("utf-8")).within("li")
    said = f"approximate: median within 0.0039 of a value and 6.1e-05 of the samples, ks within {bound:.2g}."
    assert any(text.startswith(f"Measured while the model ran, and {said}") for text in warned)
    assert any("couldn't be told apart" in text and f"0 (2 nodes, up to {share:.1%})" in text for text in warned)


def test_results_are_shown_without_a_store_and_with_it(store: Path, tmp_path: Path) -> None:
    pk.measure(store, ["auroc", "linear_probe", "cka"], out=tmp_path / "m.zarr")
    alone = texts(pk.report.write(tmp_path / "m.zarr", tmp_path / "alone.html").read_text("utf-8"))
    assert "Results alone have no samples" in alone
    assert without_folders(pk.info(store).attrs["command"]) in alone
    joined = texts(pk.report.write(tmp_path / "m.zarr", tmp_path / "joined.html", store=store).read_text("utf-8"))
    assert "accuracy of the model" in joined
    assert "Which class the model takes for which." in joined


def test_a_store_that_the_results_are_not_of_is_refused(store: Path, tmp_path: Path) -> None:
    torch.manual_seed(5)
    pk.capture(nn.Sequential(nn.Linear(4, 3)), torch.ones(20, 4), tmp_path / "other.zarr", sites="0")
    with pytest.raises(DataError, match=r"other\.zarr isn't the store that the tree was measured of: weights is "):
        pk.report.write(pk.measure(store, "mean"), tmp_path / "r.html", store=tmp_path / "other.zarr")
    assert not (tmp_path / "r.html").exists()


def test_one_site_no_labels_and_a_title(tmp_path: Path) -> None:
    pk.capture(_net(), IMAGES, tmp_path / "a.zarr", sites="2")
    html = pk.report.write(tmp_path / "a.zarr", tmp_path / "r.html", title="Mine").read_text("utf-8")
    assert Parsed(html).within("h1") == ["Mine"]
    assert "Class by class" not in texts(html)
    assert "The strongest nodes" in texts(html)


def test_results_of_whole_sites_have_no_nodes_to_explore(store: Path, tmp_path: Path) -> None:
    html = pk.report.write(pk.measure(store, ["effective_rank", "cka"]), tmp_path / "r.html").read_text("utf-8")
    assert "What 2 sites of a neural network do." in texts(html)
    assert "Explore every node" not in texts(html)
    assert html.count("<script") == 1  # that of tables


def test_intervals_and_nulls_stand_beside_what_they_are_of(tmp_path: Path) -> None:
    labels = np.arange(120) % 4
    base = RNG.normal(size=(120, 6)) + RNG.normal(size=(4, 6))[labels]
    sites = {
        name: xr.Dataset({"activation": (("sample", "node"), base + k * RNG.normal(size=base.shape))})
        for k, name in enumerate("abc")
    }
    tree = xr.DataTree.from_dict({"/": xr.Dataset(coords={"label": ("sample", labels)}), **sites})
    measured = pk.measure(tree, ["rsa", "pwcca", "auroc"], null="permute", ci="bootstrap", repeats=40)
    page = Parsed(pk.report.write(measured, tmp_path / "r.html").read_text("utf-8"))
    captions = [text.strip() for text in page.within("figcaption") if "of each pair of sites" in text]
    assert captions == ["Pwcca of each pair of sites.", "RSA of each pair of sites."]
    at, head = next((at, row) for at, row in enumerate(page.cells) if row[:3] == ["metric", "site", "other site"])
    assert head[3:] == ["value", "95% interval low", "95% interval high", "null", "null std", "p"]
    rows = page.cells[at + 1 : at + 10]
    assert [row[0] for row in rows] == ["pwcca"] * 6 + ["rsa"] * 3  # of which the former isn't symmetric
    for metric, site, other, *values in rows:
        for ending, value in zip(("", "_low", "_high", "_null", "_null_std", "_p"), values, strict=True):
            if value != "–":
                expected = measured[f"{metric}{ending}"].sel(site=site, site_b=other).item()
                assert float(value) == pytest.approx(expected, rel=1e-3, abs=1e-4)
    assert {row[8] for row in rows[:6]} == {"–"}
    head, first = [row for row in page.cells if row][:2]
    assert {"auroc q < 0.05", "auroc tested", "rsa p", "rsa 95% interval low"} <= {*head}
    found = pk.summary(measured).to_dataframe().set_index(["metric", "site"]).loc[("auroc", "a")]
    assert float(first[head.index("auroc tested")]) == found["tested"] == 24
    best = pk.top(measured, per_class=1).nodes[0]
    assert f"auroc_rest {best.value:.4g}, {best.low:.4g} to {best.high:.4g}, q {best.q:.4g}; then" in texts(
        (tmp_path / "r.html").read_text("utf-8")
    )
    assert "Intervals don't allow for the choice of the best of many nodes" in " ".join(page.within("p"))


def test_the_last_step_of_a_watch_is_shown(tmp_path: Path) -> None:
    net = _net()
    watch = pk.Watch(net, (IMAGES, torch.from_numpy(LABELS)), ["mean", "auroc"], sites="2")
    for step in range(2):
        watch(step=step)
        net[1].weight.data *= 3
    html = pk.report.write(watch.results, tmp_path / "r.html").read_text("utf-8")
    (mean,) = (each for each in explorer_data(html)["sites"][0]["variables"] if each["name"] == "mean")
    last = watch.results["2"]["mean"].isel(step=-1).transpose("label", "node").values
    np.testing.assert_allclose(unpacked(mean["values"]), last.ravel(), rtol=5e-4)


def test_images_that_moved_are_named(tmp_path: Path) -> None:
    for name in ("ant", "bee"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for number in range(15):
            pixels = RNG.integers(0, 255, (8, 8, 3), dtype=np.uint8)
            PIL.Image.fromarray(pixels).save(tmp_path / "photos" / name / f"{number}.png")
    data = pk.load.dataset(f"imagefolder:{tmp_path / 'photos'}")
    pk.capture(nn.Flatten(), data, tmp_path / "a.zarr", reduce=slice(0, 4))
    there = pk.report.write(tmp_path / "a.zarr", tmp_path / "there.html", metrics="auroc").read_text("utf-8")
    assert len([attrs for attrs in Parsed(there).all("img") if ", sample " in attrs["alt"]]) == 16
    best = pk.top(pk.measure(tmp_path / "a.zarr", "auroc"), per_class=1, classes="bee")
    drawn = pk.plot.samples(best.samples(tmp_path / "a.zarr", n=2))  # also from their files
    assert len(drawn.axes) == 2
    (tmp_path / "photos").rename(tmp_path / "moved")
    with pytest.raises(DataError, match=r"aren't where they were .*\.png\. .*samples\(store, data="):
        pk.plot.samples(best.samples(tmp_path / "a.zarr", n=2))
    moved = texts(pk.report.write(tmp_path / "a.zarr", tmp_path / "moved.html", metrics="auroc").read_text("utf-8"))
    assert "The images aren't where they were when they were captured" in moved
    assert str(tmp_path) not in moved
    assert ".png" in moved


def _arguments(name: str, store: Path) -> tuple[Any, dict[str, Any]]:
    measured = pk.measure(store, "mean")
    return {
        "nowhere": (store.parent / "nothing", {}),
        "metrics": (measured, {"metrics": "mean"}),
        "store": (store, {"store": store}),
        "results": (measured, {"store": measured}),
        "site": (measured, {"sites": "layers.*"}),
        "site of a store": (store, {"sites": "layers.*"}),
        "kind": (3, {}),
        "data": (store, {"data": (IMAGES[:20], torch.from_numpy(LABELS[:20]))}),
    }[name]


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("nowhere", StoreError, "There is no store at"),
        ("metrics", DataError, "holds results: there is nothing to measure. Leave metrics= out"),
        ("store", DataError, "is a store itself. Leave store= out"),
        ("results", DataError, "store= is the store that they are of"),
        ("site", SiteError, r"layers\.\*"),
        ("site of a store", SiteError, r"layers\.\*.*acts\.zarr"),
        ("kind", DataError, "source"),
        ("data", DataError, "have 20 samples, and the store has 150"),
    ],
)
def test_wrong_input_writes_nothing(
    name: str, error: type[Exception], message: str, store: Path, tmp_path: Path
) -> None:
    source, options = _arguments(name, store)
    with pytest.raises(error, match=message):
        pk.report.write(source, tmp_path / "r.html", **options)
    assert not (tmp_path / "r.html").exists()


@pytest.mark.parametrize("content", [None, b"no picture"])
def test_a_picture_that_can_not_be_shown_says_why(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "cat.png"
    if content is not None:
        path.write_bytes(content)
    [found] = shown_samples([TopSample("relu", 0, 0, 1.5, 3, file=str(path))])
    assert found.image is None
    assert found.before.startswith("No picture: ")
    assert "cat.png" in found.before
