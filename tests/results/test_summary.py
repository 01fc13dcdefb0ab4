"""The headlines of results as tables, and what they say about missing values."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import xarray as xr
from torch import nn

import probekit as pk

METRICS = ["auroc", "selectivity", "overlap:null='permute'", "linear_probe", "sparsity", "cka", "histogram"]


@pytest.fixture
def measured(tree: xr.DataTree) -> xr.DataTree:
    return pk.measure(tree, METRICS)


def test_a_site_has_one_number_of_each_metric(measured: xr.DataTree) -> None:
    found = pk.summary(measured)
    table = found.to_dataframe().set_index(["site", "metric"])
    relu = measured["relu"]
    assert table.loc[("relu", "auroc"), "value"] == pytest.approx(relu["auroc_rest"].values.max(axis=1).mean())
    assert table.loc[("relu", "sparsity"), "value"] == relu["sparsity_site"].item()
    assert table.loc[("relu", "overlap"), "beside"] == pytest.approx(relu["overlap_null"].values.mean())
    assert table.loc[("relu", "linear_probe"), "beside"] == relu["linear_probe_chance"].item()
    assert table.loc[("relu", "cka"), "value"] == pytest.approx(measured["cka"].values[0, 1])
    assert set(table["n"]) == {200}
    assert "histogram" not in found.headlines
    assert found.table.columns == (
        *("site", "n", "auroc", "selectivity", "overlap", "overlap_null"),
        *("linear_probe", "linear_probe_chance", "sparsity", "cka", "missing"),
    )
    assert [row[0] for row in found.table.rows] == ["layers.0", "relu"]


def test_a_correction_that_takes_the_rows_of_a_sample_as_independent_says_so() -> None:
    rng, sample = np.random.default_rng(0), np.repeat(np.arange(40), 5)
    x = rng.normal(size=(40, 3))[sample] + 0.1 * rng.normal(size=(200, 3))
    columns = {"label": ("row", sample % 2), "sample_id": ("row", sample)}
    tokens = xr.Dataset({"activation": (("row", "node"), x)}, columns)
    maps = xr.Dataset({"activation": (("sample", "node", "y", "x"), rng.normal(size=(40, 3, 2, 2)))})
    maps = maps.assign_coords(label=("sample", np.arange(40) % 2))
    said = "Corrected as if the rows of a sample were independent"
    for site, options in ((tokens, {}), (maps, {"positions": "each"})):
        found = pk.summary(pk.measure(site, ["fisher", "separability"], **options))
        assert [said in note for note in found.notes if "says nothing" in note] == [True, True]
        assert [each.beside_name for each in found.readings] == ["fisher_null", None]
    (note,) = pk.summary(pk.measure(tokens, "participation_ratio")).notes
    assert note.endswith(f"{said}.")  # no null tells how much
    assert said not in str(pk.summary(pk.measure(maps, ["fisher", "separability"])))
    assert said not in str(pk.summary(pk.measure(tokens, ["mean", "fisher:corrected=False"])))


def test_missing_values_are_counted_and_explained(measured: xr.DataTree) -> None:
    found = pk.summary(measured)
    negative = np.isnan(measured["layers.0"]["selectivity"].values).sum()
    assert negative == 40  # every node of a normal distribution goes below 0
    assert found.table.rows[0][-1] == negative
    (note,) = [note for note in found.notes if "missing for" in note]
    assert note.startswith(f"selectivity is missing for {negative} of 40 values at layers.0: nodes go below 0")
    assert "use auroc or dprime" in note
    assert found.to_dataframe().query("site == 'layers.0' and metric == 'selectivity'")["value"].isna().all()


def test_notes_say_how_to_read_each_metric(measured: xr.DataTree) -> None:
    notes = pk.summary(measured).notes
    assert notes[0].startswith("auroc: auroc_rest (max over nodes, mean over classes). Large: for every class, ")
    assert notes[0].endswith(" 0.5 says nothing.")
    assert any(note.endswith("Compare it with linear_probe_chance.") for note in notes)


def test_the_table_fits_the_terminal(measured: xr.DataTree, monkeypatch: pytest.MonkeyPatch) -> None:
    found = pk.summary(measured)
    for width, first in ((200, "site"), (60, "metric")):
        monkeypatch.setenv("COLUMNS", str(width))
        title, head, *rest = repr(found).splitlines()
        assert title == "2 sites"
        assert head.split()[0] == first
        assert max(map(len, (head, *rest[: -len(found.notes)]))) <= width
    assert "<th>overlap_null</th>" in found._repr_html_()
    assert "Compare it with linear_probe_chance." in found._repr_html_()


def test_metrics_sites_and_the_format_are_chosen(measured: xr.DataTree) -> None:
    found = pk.summary(measured, metrics=["sparsity", "auroc"], sites="re*", fmt=".1f")
    assert found.table.columns == ("site", "n", "sparsity", "auroc", "missing")
    assert [row[0] for row in found.table.rows] == ["relu"]
    assert found.table.rows[0][2] == f"{measured['relu']['sparsity_site'].item():.1f}"
    assert list(pk.summary(measured, metrics="auroc").headlines) == ["auroc"]


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"metrics": "aurok"}, pk.errors.DataError, "no headline of a metric 'aurok'.*Near: 'auroc'"),
        ({"metrics": ["histogram"]}, pk.errors.DataError, "no headline of a metric 'histogram'"),
        ({"metrics": 3}, pk.errors.DataError, "metrics is an int, 3"),
        ({"sites": "conv*"}, pk.errors.SiteError, "conv"),
        ({"fmt": "4 digits"}, pk.errors.DataError, "formats no number"),
    ],
)
def test_what_there_is_not_is_refused(measured, options, error, message) -> None:
    with pytest.raises(error, match=message):
        pk.summary(measured, **options)


def test_steps_are_summed_up_at_the_last_one() -> None:
    watch = pk.Watch(nn.Sequential(nn.ReLU()), (torch.eye(4), torch.arange(4) % 2), ["mean", "cka"], sites="0", every=5)
    for step in (0, 5):
        watch(step)
    found = pk.summary(watch.results)
    assert found.title == "1 site at step 5, the last of 2"
    assert found.to_dataframe().query("metric == 'mean'")["value"].item() == 0.25
    assert found.to_dataframe().query("metric == 'cka'")["value"].isna().all()  # there is no other site


def test_omitted_samples_are_told(tree: xr.DataTree) -> None:
    x = tree["relu"]["activation"].values.copy()
    x[:7, 3] = np.nan
    tree["relu"]["activation"] = xr.DataArray(x, dims=("sample", "node"))
    found = pk.summary(pk.measure(tree, "mean", nan="omit", sites="relu")).to_dataframe()
    assert found[["n", "omitted"]].values.tolist() == [[193, 7]]


def test_intervals_and_p_values_stand_beside_a_number(tree: xr.DataTree) -> None:
    measured = pk.measure(tree, ["fisher", "auroc", "std", "linear_probe"], null="permute", ci="jackknife", repeats=20)
    found, relu = pk.summary(measured, metrics=["fisher", "linear_probe"]), measured["relu"]
    assert found.table.columns == (
        *("site", "n", "fisher", "fisher 95% interval", "fisher_null_site", "fisher p", "fisher q < 0.05"),
        *("linear_probe", "linear_probe 95% interval", "linear_probe_chance", "linear_probe p", "missing"),
    )
    row = found.to_dataframe().set_index(["site", "metric"]).loc[("relu", "fisher")]
    for column, variable in {"beside": "null", "p": "p", "low": "low", "high": "high"}.items():
        assert row[column] == relu[f"fisher_{variable}_site"].item()
    assert found.long_table.columns == (
        *("metric", "site", "value", "95% interval", "beside", "p", "q < 0.05", "n", "missing"),
    )
    ax = pk.plot.profile(measured, "fisher").axes[0]
    assert [line.get_linestyle() for line in ax.lines] == ["-", "--", ":"]
    texts = [text.get_text() for text in ax.get_legend().get_texts()]
    assert texts == ["95% interval", "shuffled labels", "neutral: 0"]
    assert np.isnan(relu["auroc_rest_low_site"])
    assert "the largest of the nodes" in relu["auroc_rest_low_site"].attrs["no_interval"]
    assert np.isfinite(relu["auroc_rest_low"]).all()


def test_one_site_of_a_tree_is_no_result_without_sites() -> None:
    measured = pk.measure_live(torch.nn.Sequential(torch.nn.ReLU()), torch.eye(20), "mean", sites="0")
    for use in (pk.summary, pk.top):
        with pytest.raises(pk.errors.DataError, match=r"measured is the site '0' of results.*with sites='0'"):
            use(measured["0"])  # type: ignore[operator]
    assert str(measured["0"].to_dataset().probekit.summary()) == str(pk.summary(measured))


def test_nodes_that_are_found_are_counted() -> None:
    rng, labels = np.random.default_rng(0), np.arange(90) % 3
    x = rng.normal(size=(90, 12)).astype(np.float32)
    x[:, :4] += labels[:, None]  # four nodes know the class
    site = xr.Dataset({"activation": (("sample", "node"), np.maximum(x, 0))}, {"label": ("sample", labels)})
    measured = pk.measure(site, ["fisher", "sparsity", "auroc", "linear_probe"], null="permute", repeats=400)
    found, data = pk.summary(measured), measured["activation"]
    rows = found.to_dataframe().set_index("metric")
    assert rows["q_of"].dropna().to_dict() == {"fisher": "fisher", "sparsity": "sparsity", "auroc": "auroc_rest"}
    for metric, q_of in rows["q_of"].dropna().items():
        q = data[f"{q_of}_q"].values
        assert rows.loc[metric, ["discoveries", "tested"]].tolist() == [(q < 0.05).sum(), q.size]
    assert rows.loc["fisher", ["discoveries", "tested", "q_needs"]].tolist() == [4, 12, 2]
    assert rows.loc["linear_probe", ["discoveries", "tested", "q_needs"]].isna().all()
    cells = dict(zip(found.table.columns, found.table.rows[0], strict=True))
    assert cells["fisher q < 0.05"] == "4 of 12"
    assert "linear_probe q < 0.05" not in cells
    assert {row[0]: row[found.long_table.columns.index("q < 0.05")] for row in found.long_table.rows}[
        "fisher"
    ] == "4 of 12"
    (note,) = [note for note in found.notes if note.startswith("sparsity: ")]
    assert note.endswith("q < 0.05 counts values of sparsity.")
    assert not any("shuffles" in note for note in found.notes)


def test_too_few_shuffles_to_find_a_node_are_said() -> None:
    rng, labels = np.random.default_rng(0), np.arange(60) % 2
    x = rng.normal(size=(60, 40))
    x[:, 0] += 5 * labels
    site = xr.Dataset({"activation": (("sample", "node"), x)}, {"label": ("sample", labels)})
    found = pk.summary(pk.measure(site, "fisher", null="permute", repeats=200))
    assert found.to_dataframe()[["discoveries", "q_needs"]].values.tolist() == [[0, 8]]  # 2 / 201 * 40 / 8 < 0.05
    (note,) = [note for note in found.notes if "shuffles" in note]
    assert note.startswith("fisher: no q < 0.05 at activation. With so few shuffles only 8 nodes or more at once")
    more = pk.summary(pk.measure(site, "fisher", null="permute", repeats=1700))
    assert more.to_dataframe()["discoveries"].item() == 1


def test_shuffles_that_no_number_of_nodes_is_enough_for_are_said() -> None:
    x, labels = np.random.default_rng(0).normal(size=(60, 6)), np.arange(60) % 3
    sites = {name: xr.Dataset({"activation": (("sample", "node"), x[:, :n])}) for name, n in {"a": 6, "b": 3}.items()}
    tree = xr.DataTree.from_dict({"/": xr.Dataset(coords={"label": ("sample", labels)}), **sites})
    few = pk.summary(pk.measure(tree, "auroc", null="permute", repeats=20))
    assert few.to_dataframe()["q_needs"].isna().all()
    (note,) = [note for note in few.notes if "shuffles" in note]
    assert note.endswith("at a, b. With so few shuffles no node could have it: take more (repeats=).")
    more = pk.summary(pk.measure(tree, "auroc", null="permute", repeats=60))
    assert more.to_dataframe()["q_needs"].tolist() == [4, 2]
    (note,) = [note for note in more.notes if "shuffles" in note]
    assert "only 2 nodes or more at once (4 at the largest site) could have it" in note


@pytest.mark.parametrize("classes", [3, 5])
def test_what_compares_sites_has_intervals_and_nulls_of_its_mean(classes: int) -> None:
    rng, labels = np.random.default_rng(0), np.arange(120) % classes
    base = rng.normal(size=(120, 6)) + rng.normal(size=(classes, 6))[labels]
    sites = {
        name: xr.Dataset({"activation": (("sample", "node"), base + k * rng.normal(size=base.shape))})
        for k, name in enumerate("abc")
    }
    tree = xr.DataTree.from_dict({"/": xr.Dataset(coords={"label": ("sample", labels)}), **sites})
    measured = pk.measure(tree, ["cka", "rsa", "procrustes"], null="permute", ci="bootstrap", repeats=40)
    found = pk.summary(measured)
    rows = found.to_dataframe().set_index(["metric", "site"])
    for name in ("cka", "rsa", "procrustes"):
        table = measured[name].values
        for at, site in enumerate("abc"):
            row = rows.loc[(name, site)]
            assert row["value"] == pytest.approx(np.delete(table[at], at).mean())
            assert row["low"] == pytest.approx(measured[f"{name}_low_site"].values[at], nan_ok=True)
            if row["low"] == row["low"]:
                assert row["low"] <= row["value"] <= row["high"]
    assert rows.loc["rsa", "p"].tolist() == measured["rsa_p_site"].values.tolist()
    assert set(rows.loc["rsa", "beside_name"]) == {"rsa_null_site"}
    assert rows.loc["cka", "p"].isna().all()  # it sees no labels
    reasons = [note for note in found.notes if "no interval" in note]
    assert reasons == (
        []
        if classes > 3
        else ["rsa: no interval at a, b, c, since it needs 4 classes of two samples, and there are 3."]
    )
    shown = dict(zip(found.table.columns, found.table.rows[0], strict=True))["rsa 95% interval"]
    assert (shown is None) == (classes == 3)
    some = pk.summary(measured, sites="a", metrics="cka").to_dataframe()
    assert some["low"].item() == measured["cka_low_site"].sel(site="a").item()  # of the mean over all others


def test_metrics_that_have_no_intervals_are_named_beside_others_that_do() -> None:
    site = xr.Dataset({"activation": (("sample", "node"), np.random.default_rng(0).normal(size=(60, 3)))})
    said = "min, max: no interval, since draws of the samples tell too little of it."
    assert said in pk.summary(pk.measure(site, ["min", "mean", "max"], ci="bootstrap", repeats=20)).notes
    assert not [note for note in pk.summary(pk.measure(site, ["min", "mean"])).notes if "no interval" in note]


def test_nothing_is_said_of_intervals_and_nulls_that_nobody_asked_for(measured: xr.DataTree) -> None:
    rows = pk.summary(measured).to_dataframe()
    assert rows[["p", "q_of", "discoveries", "tested", "q_needs", "low", "high", "confidence"]].isna().all(axis=None)
    assert set(rows["no_interval"]) == {""}
    live = pk.measure_live(nn.Sequential(nn.ReLU()), (torch.randn(40, 5), torch.arange(40) % 2), ["fisher"], sites="0")
    assert pk.summary(live).to_dataframe()[["q_of", "low"]].isna().all(axis=None)
