"""Tables of a page: what of any data is shown, and how."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from probekit.report import Page, Tabular
from tests.report.parsed import Parsed


def test_rows_show_numbers_text_and_gaps() -> None:
    rows: list[dict[str, Any]] = [
        {"layer": "relu1", "n": 1797, "share": 0.123456, "done": True, "p": 1e-7},
        {"layer": "relu2", "n": None, "share": float("nan"), "done": False, "p": np.float32(0.5)},
    ]
    page = Parsed(Page("t").table(rows, "c", formats={"share": ".1%"}).html())
    assert page.cells == [
        ["layer", "n", "share", "done", "p"],
        ["relu1", "1797", "12.3%", "True", "1e-07"],
        ["relu2", "–", "–", "False", "0.5"],
    ]
    assert [attrs["class"] for attrs in page.all("td")[:5]] == ["", "num", "num", "", "num"]
    assert page.within("b") == ["Table 1."]


def test_columns_of_several_levels_share_their_headings() -> None:
    columns = pd.MultiIndex.from_product([["ReLU", "ReLU BN"], ["untrained", "trained"]])
    frame = pd.DataFrame([[49.2, 80.4, 49.1, 65.8]], index=pd.Index([1], name="layer"), columns=columns)
    page = Parsed(Page("t").table(frame, "c", formats={"trained": ".0f", ("ReLU", "untrained"): ".2f"}).html())
    assert page.cells == [
        ["layer", "ReLU", "ReLU BN"],
        ["untrained", "trained", "untrained", "trained"],
        ["1", "49.20", "80", "49.1", "66"],
    ]
    heads = page.all("th")
    assert (heads[0]["rowspan"], heads[1]["colspan"], heads[3]["colspan"]) == ("2", "2", "1")


def test_arrays_keep_their_order_and_their_labels() -> None:
    data = xr.DataArray([[0.5, 0.25], [1, 0]], dims=("site", "label"), coords={"site": ["z", "a"], "label": [7, 3]})
    assert Parsed(Page("t").table(data, "c").html()).cells == [
        ["site", "7", "3"],
        ["z", "0.5", "0.25"],
        ["a", "1", "0"],
    ]
    column = data.sel(label=7).rename("sparsity")
    assert Parsed(Page("t").table(column, "c").html()).cells == [["site", "sparsity"], ["z", "0.5"], ["a", "1"]]
    both = xr.Dataset({"x": column, "y": column + 1}).drop_vars("label")
    assert Parsed(Page("t").table(both, "c").html()).cells[1] == ["z", "0.5", "1.5"]


def test_badges_mark_the_cells_that_hold_their_key() -> None:
    rows = [{"status": "not_held"}, {"status": "held"}, {"status": "held back"}]
    page = Parsed(Page("t").table(rows, "c", badges={"held": "good", "not_held": "bad"}).html())
    assert [attrs["class"] for attrs in page.all("span")] == ["badge bad", "badge good"]
    assert page.cells == [["status"], ["not held"], ["held"], ["held back"]]


def test_wide_tables_scroll_on_their_own_and_from_the_keyboard() -> None:
    page = Parsed(Page("t").table([{f"column {n}": n for n in range(40)}], "Wide.").html())
    (scroll,) = [attrs for attrs in page.all("div") if attrs.get("class") == "scroll"]
    assert (scroll["tabindex"], scroll["aria-label"]) == ("0", "Wide.")


def test_one_format_for_all_columns_leaves_integers_as_they_are() -> None:
    page = Parsed(Page("t").table([{"depth": 2, "accuracy": 97.531}], "c", formats=".2f").html())
    assert page.cells == [["depth", "accuracy"], ["2", "97.53"]]


def test_every_kind_of_missing_value_is_a_dash() -> None:
    frame = pd.DataFrame(
        {
            "n": pd.array([1, None], dtype="Int64"),
            "day": pd.to_datetime(["2020-02-01", None]),
            "kind": pd.Categorical(["a", None]),
            "thing": [True, pd.NA],
        },
        index=pd.MultiIndex.from_tuples([("a", 1.5), ("b", None)], names=["x", None]),
    )
    page = Parsed(Page("t").table(frame, "c").html())
    assert page.cells == [
        ["x", "", "n", "day", "kind", "thing"],
        ["a", "1.5", "1", "2020-02-01 00:00:00", "a", "True"],
        ["b", "–", "–", "–", "–", "–"],
    ]
    assert [attrs["class"] for attrs in page.all("td")[:4]] == ["num", "", "", ""]


def test_long_text_gets_room() -> None:
    page = Parsed(Page("t").table([{"short": "x" * 39, "long": "x" * 40}], "c").html())
    assert [attrs["class"] for attrs in page.all("td")] == ["", "long"]


@pytest.mark.parametrize(
    ("data", "cells"),
    [
        ([], [[]]),
        (pd.DataFrame({"a": []}), [["a"]]),
        (pd.DataFrame(index=["r", "s"]), [[""], ["r"], ["s"]]),
        (pd.DataFrame([[1, 2]], columns=["a", "a"], index=["r"]), [["", "a"], ["r", "1", "2"]]),
    ],
    ids=["nothing", "no rows", "no columns", "equal names"],
)
def test_odd_shapes_are_tables_too(data: Tabular, cells: list[list[str]]) -> None:
    assert Parsed(Page("t").table(data, "c").html()).cells == cells


def test_what_is_added_later_to_the_data_is_not_in_the_page() -> None:
    frame = pd.DataFrame({"a": [1]})
    page = Page("t").table(frame, "c")
    frame["a"] = 2
    assert Parsed(page.html()).cells == [["a"], ["1"]]
