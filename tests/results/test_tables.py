"""What was measured, as tables."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import xarray as xr

import probekit as pk
from probekit._results.tables import node_values

X, Y = torch.randn(90, 4), torch.arange(90) % 3


@pytest.fixture(scope="module")
def measured() -> xr.DataTree:
    model = torch.nn.Sequential(torch.nn.Linear(4, 6), torch.nn.ReLU())
    return pk.measure_live(model, (X, Y), ["mean", "std", "sparsity", "cka"], sites=["0", "1"])


def test_variables_of_one_table_are_its_columns(measured: xr.DataTree) -> None:
    table = pk.to_dataframe(measured, "mean", "std")
    assert table.columns.tolist() == ["site", "label", "node", "class_name", "mean", "std"]
    assert len(table) == 2 * 3 * 6
    row = table[(table["site"] == "1") & (table["label"] == 2) & (table["node"] == 4)]
    assert row["std"].item() == measured["1"]["std"].sel(label=2).values[4]
    assert set(pk.to_dataframe(measured, "sparsity_node").columns) == {"site", "node", "sparsity_node"}
    np.testing.assert_array_equal(pk.to_dataframe(measured, "sparsity_site")["site"], ["0", "1"])


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["meen"], "No site has a variable 'meen'.*Near: 'mean'"),
        (["mean", "sparsity_node"], "have the dims .* aren't columns of one table"),
        ([], "No variable was named"),
    ],
)
def test_what_is_no_table_is_refused(measured: xr.DataTree, names: list[str], message: str) -> None:
    with pytest.raises(pk.errors.DataError, match=message):
        pk.to_dataframe(measured, *names)


def test_values_of_nodes_are_one_table(measured: xr.DataTree) -> None:
    table = node_values(measured)
    assert table.columns.tolist() == ["site", "variable", "label", "node", "class_name", "value"]
    assert set(table["variable"]) == {"mean", "std", "sparsity", "sparsity_node"}
    row = table[(table["variable"] == "sparsity_node") & (table["site"] == "1") & (table["node"] == 5)]
    assert row["value"].item() == measured["1"]["sparsity_node"].values[5]
    assert np.isnan(row["label"].item())
    rows = table[(table["variable"] == "std") & (table["label"] == 1) & (table["site"] == "0")]
    np.testing.assert_array_equal(rows["value"], measured["0"]["std"].sel(label=1))


def test_without_values_of_nodes_there_is_no_table(measured: xr.DataTree) -> None:
    with pytest.raises(pk.errors.DataError, match="No metric gives values of nodes"):
        node_values(measured.match("[01]").map_over_datasets(lambda site: site[[]]))
