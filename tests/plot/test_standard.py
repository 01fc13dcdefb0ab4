"""The standard set: which figures a store or results have, and what is said where they have none."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch
import xarray as xr
from torch import nn

import probekit as pk
from probekit.errors import DataError, SiteError, StoreError
from tests.models import TokenLayers

X, Y = torch.from_numpy(np.random.default_rng(0).normal(size=(90, 6))).float(), torch.arange(90) % 3


def _model() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 5), nn.ReLU(), nn.Linear(5, 3))


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("stores") / "acts.zarr"
    pk.capture(_model(), (X, Y), path, sites=["1", "3"], predictions=True)
    return path


def test_a_labelled_store_has_figures_of_every_kind_but_those_of_tokens_and_steps(store: Path) -> None:
    drawn = pk.plot.standard(store)
    kinds = {"profile", "medians", "distributions", "heatmap", "by-class", "matrix", "pairs", "confusion"}
    assert {kind for kind in kinds if any(name.startswith(kind) for name in drawn)} == kinds
    assert not [name for name in drawn if name.startswith(("by-step", "by-position"))]
    assert {"profile-overlap", "profile-linear_probe", "heatmap-auroc_rest", "matrix-cka", "pairs-overlap_pairs-3"} <= {
        *drawn
    }
    assert all(isinstance(each, pk.plot.Drawing) for each in drawn.values())


def test_only_what_was_asked_for_is_measured_and_drawn(store: Path) -> None:
    drawn = pk.plot.standard(store, ["medians", "confusion"], sites="3")
    assert list(drawn) == ["medians", "confusion"]
    expected = pk.measure(store, ["median"], sites="3")["3"]["median"].values
    dots = drawn["medians"].axes[0].collections[0].get_offsets()
    assert sorted(dots[:, 1]) == pytest.approx(sorted(expected[expected != 0]))


def test_results_have_the_figures_of_what_was_measured(store: Path, tmp_path: Path) -> None:
    measured = pk.measure(store, ["mean", "cka", "selectivity"], out=tmp_path / "m.zarr")
    expected = ["profile-mean", "profile-selectivity", "heatmap-mean", "by-class-mean", "matrix-cka"]
    assert list(pk.plot.standard(tmp_path / "m.zarr")) == expected
    assert list(pk.plot.standard(measured)) == expected
    one = pk.plot.standard(measured, ["matrix", "profile"], sites=["3"])
    assert one["matrix-cka"].axes[0].images[0].get_array().shape == (1, 1)
    assert [label.get_text() for label in one["profile-mean"].axes[0].get_xticklabels()] == ["3"]


def test_distributions_are_of_nodes_that_tell_classes_apart_well_and_badly(store: Path) -> None:
    panels = pk.plot.standard(store, ["distributions"])["distributions"].axes
    overlap = pk.measure(store, ["overlap"])["1"]["overlap"].values
    alive = [int(node) for node in np.argsort(overlap, kind="stable") if overlap[node] < 1]
    shown = [alive[0], alive[round((len(alive) - 1) / 2)], alive[-1]]
    assert [ax.get_title("left").strip() for ax in panels[:3]] == [f"1 [{node}]" for node in shown]


def test_a_store_without_labels_has_no_figures_of_classes(tmp_path: Path) -> None:
    pk.capture(_model(), X, tmp_path / "a.zarr", sites=["1", "3"])
    drawn = pk.plot.standard(tmp_path / "a.zarr")
    assert {"profile-sparsity_site", "medians", "distributions", "matrix-cka"} <= {*drawn}
    assert not [name for name in drawn if name.startswith(("by-class", "pairs", "confusion"))]


def test_tokens_have_positions_and_no_similarity_of_sites(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = TokenLayers(nn.Embedding(20, 6), nn.Linear(6, 5), nn.ReLU())
    ids, mask = torch.randint(0, 20, (30, 7)), torch.ones(30, 7, dtype=torch.long)
    batch = {"input_ids": ids, "attention_mask": mask, "labels": torch.arange(30) % 2}
    pk.capture(model, batch, tmp_path / "a.zarr", sites=["1", "2"], reduce="tokens")
    drawn = pk.plot.standard(tmp_path / "a.zarr")
    assert {"by-position-std", "by-position-sparsity", "medians"} <= {*drawn}
    assert not [name for name in drawn if name.startswith("matrix")]
    by_position = pk.measure(tmp_path / "a.zarr", ["std"], by="position")
    assert list(pk.plot.standard(by_position)) == ["by-position-std"]


def test_texts_and_images_of_the_best_nodes_are_shown(tmp_path: Path) -> None:
    words = [f"text {number}" for number in range(90)]
    pk.capture(_model(), (X, Y), tmp_path / "a.zarr", sites=["3"], columns={"text": words})
    drawing = pk.plot.standard(tmp_path / "a.zarr", ["samples"])["samples"]
    best = pk.top(pk.measure(tmp_path / "a.zarr", "auroc"), per_class=1)
    expected = [each.text for each in best.samples(tmp_path / "a.zarr", n=6).samples]
    assert [text.get_text() for ax in drawing.axes for text in ax.texts[1::2]] == expected
    paths = [str(tmp_path / f"{number}.png") for number in range(90)]
    pk.capture(_model(), (X, Y), tmp_path / "b.zarr", sites=["3"], columns={"path": paths})
    with pytest.raises(DataError, match="paths of images that are still there"):
        pk.plot.standard(tmp_path / "b.zarr", ["samples"])
    for path in paths:
        PIL.Image.new("RGB", (8, 8), "#00ff00").save(path)
    assert pk.plot.standard(tmp_path / "b.zarr", ["samples"])["samples"].axes[0].images[0].get_array()[0, 0, 1] == 1


def test_a_training_has_its_steps(tmp_path: Path) -> None:
    watch = pk.Watch(_model(), (X, Y), ["mean", "sparsity"], every=1, sites=["1"], out=tmp_path / "w.zarr")
    watch(0)
    watch(1)
    assert list(pk.plot.standard(tmp_path / "w.zarr")) == ["by-step-mean", "by-step-sparsity_site"]


def test_large_tables_are_not_made_without_being_asked_for(tmp_path: Path) -> None:
    wide = nn.Sequential(nn.Linear(6, 5000), nn.ReLU())
    pk.capture(wide, (X, Y), tmp_path / "a.zarr", sites="1")
    assert list(pk.plot.standard(tmp_path / "a.zarr", ["profile"])) == [
        "profile-sparsity_site",
        "profile-overlap",
        "profile-auroc_rest",
        "profile-selectivity",
    ]


@pytest.mark.parametrize(
    ("kinds", "sites", "kind", "message"),
    [
        (["median"], None, DataError, "no kind of figure 'median'. Near: 'medians'.* The kinds: profile, medians"),
        (["by-step"], None, DataError, r"acts\.zarr lacks what by-step needs: results of probekit\.Watch"),
        (["by-position"], None, DataError, "a store with a row for each token"),
        ("medians", None, DataError, "kinds is a str"),
        (None, "layer*", SiteError, r"No site matches 'layer\*'"),
    ],
)
def test_what_cannot_be_drawn_says_what_it_needs(store: Path, kinds, sites, kind, message: str) -> None:
    with pytest.raises(kind, match=message):
        pk.plot.standard(store, kinds, sites=sites)


def test_nothing_to_draw_is_said(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nothing that a kind of figure is drawn of\. They need profile: metrics"):
        pk.plot.standard(xr.DataTree.from_dict({"relu": xr.Dataset({"note": ("node", ["a"])})}))
    with pytest.raises(StoreError, match="no store at"):
        pk.plot.standard(tmp_path / "none.zarr")
    with pytest.raises(DataError, match="source is an int"):
        pk.plot.standard(3)


def test_images_of_a_folder_are_found_where_the_capture_found_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, level in (("ant", 60), ("bee", 200)):
        for number in range(12):
            Path("photos", name).mkdir(parents=True, exist_ok=True)
            PIL.Image.new("RGB", (8, 8), (level, level, number)).save(Path("photos", name, f"{number}.png"))
    data = pk.load.dataset("imagefolder:photos")
    pk.capture(nn.Flatten(), data, "a.zarr", reduce=slice(0, 4))
    picture = pk.plot.standard("a.zarr", ["samples"])["samples"].axes[0].images[0].get_array()
    assert picture.shape[:2] == (8, 8)
