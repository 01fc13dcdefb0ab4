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
    measured = pk.measure(tree, ["auroc", "std", "linear_probe"], null="permute", ci="jackknife", repeats=20)
    found, relu = pk.summary(measured, metrics=["auroc", "linear_probe"]), measured["relu"]
    assert found.table.columns == (
        *("site", "n", "auroc", "auroc 95% interval", "auroc_rest_null_site", "auroc p"),
        *("linear_probe", "linear_probe 95% interval", "linear_probe_chance", "linear_probe p", "missing"),
    )
    row = found.to_dataframe().set_index(["site", "metric"]).loc[("relu", "auroc")]
    for column, variable in {"beside": "null", "p": "p", "low": "low", "high": "high"}.items():
        assert row[column] == relu[f"auroc_rest_{variable}_site"].item()
    assert found.long_table.columns == ("metric", "site", "value", "95% interval", "beside", "p", "n", "missing")
    ax = pk.plot.profile(measured, "auroc_rest").axes[0]
    assert [line.get_linestyle() for line in ax.lines] == ["-", "--", ":"]
    texts = [text.get_text() for text in ax.get_legend().get_texts()]
    assert texts == ["95% interval", "shuffled labels", "neutral: 0.5"]


def test_one_site_of_a_tree_is_no_result_without_sites() -> None:
    measured = pk.measure_live(torch.nn.Sequential(torch.nn.ReLU()), torch.eye(20), "mean", sites="0")
    for use in (pk.summary, pk.top):
        with pytest.raises(pk.errors.DataError, match=r"measured is the site '0' of results.*with sites='0'"):
            use(measured["0"])  # type: ignore[operator]
    assert str(measured["0"].to_dataset().probekit.summary()) == str(pk.summary(measured))
