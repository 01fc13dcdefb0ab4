"""The table value: how it prints, shows itself in HTML, and becomes a DataFrame."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from probekit._table import Table, is_missing, shown

ROOT = Path(__file__).parents[1]
HOSTILE = "<script>alert('x')</script> & \"quotes\""


def test_it_prints_as_pandas_prints_the_same_cells() -> None:
    rows = [("0", "Flatten", 1, "2×64"), ("(root)", "Sequential", 12345, "scalar")]
    table = Table("Net: 2 sites", ("site", "type", "calls", "a long heading"), rows)
    assert str(table) == "Net: 2 sites\n" + table.to_dataframe().to_string(index=False)
    assert str(table) == repr(table)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1797, "1797"),
        (np.int64(123456), "123456"),
        (0.123456, "0.1235"),
        (1e-7, "1e-07"),
        (np.float32(0.5), "0.5"),
        (float("inf"), "inf"),
        (True, "True"),
        ((3, 224), "3, 224"),
        ([], ""),
        ("as it is", "as it is"),
        (None, "–"),
        (float("nan"), "–"),
        (np.float32("nan"), "–"),
    ],
)
def test_a_value_is_shown_as_a_reader_wants_it(value: object, text: str) -> None:
    assert shown(value) == text
    assert Table("t", ("x",), [[value]]).shown_rows() == [[text]]
    assert is_missing(value) == (text == "–")


def test_a_format_is_for_numbers_alone() -> None:
    assert [shown(value, ".1%") for value in (0.123456, 1, "0.5", True, None)] == [
        "12.3%",
        "100.0%",
        "0.5",
        "True",
        "–",
    ]


def test_the_html_is_escaped() -> None:
    html = Table(HOSTILE, (HOSTILE,), [(HOSTILE,)])._repr_html_()
    assert "<script>" not in html
    assert html.count("&lt;script&gt;alert(&#x27;x&#x27;)&lt;/script&gt; &amp; &quot;quotes&quot;") == 3


def test_the_html_has_the_cells_that_it_prints() -> None:
    html = Table("Two sites", ("site", "sparsity"), [("relu1", 0.123456), ("relu2", None)])._repr_html_()
    rows = re.findall(r"<tr>(.*?)</tr>", html)
    assert [re.findall(r"<t[hd]>(.*?)</t[hd]>", row) for row in rows] == [
        ["site", "sparsity"],
        ["relu1", "0.1235"],
        ["relu2", "–"],
    ]
    assert html.startswith("<p>Two sites</p>")


def test_an_empty_table_is_its_title_in_print_and_its_columns_elsewhere() -> None:
    table = Table("a.zarr: all sound", ("name", "rows"), ())
    assert str(table) == "a.zarr: all sound"
    assert "<th>name</th><th>rows</th>" in table._repr_html_()
    assert (list(table.to_dataframe().columns), len(table.to_dataframe())) == (["name", "rows"], 0)


def test_a_wide_table_is_neither_cut_nor_wrapped() -> None:
    columns = [f"column {n}" for n in range(60)]
    table = Table("Wide.", columns, [["x" * 100] * 60, list(range(60))])
    title, *lines = str(table).splitlines()
    assert title == "Wide."
    assert [len(line) for line in lines] == [60 * 101 - 1] * 3  # the widest cell and a space, for each column
    assert lines[-1].split() == list(map(str, range(60)))
    assert table._repr_html_().count("x" * 100) == 60


def test_a_frame_becomes_a_table_and_a_table_a_frame() -> None:
    frame = pd.DataFrame(
        {
            "layer": ["relu1", None],
            "share": [0.5, np.nan],
            "n": pd.array([3, None], dtype="Int64"),
            "day": pd.to_datetime(["2020-02-01", None]),
            "done": [True, False],
        }
    )
    table = Table.from_dataframe("t", frame)
    assert [list(row) for row in table.rows] == [
        ["relu1", 0.5, 3, pd.Timestamp("2020-02-01"), True],
        [None, None, None, None, False],
    ]
    assert table.shown_rows()[1] == ["–", "–", "–", "–", "False"]
    pd.testing.assert_frame_equal(table.to_dataframe(), frame, check_dtype=False)


def test_printing_a_table_imports_no_pandas(python: Callable[..., Any]) -> None:
    code = (
        "import sys; from probekit._table import Table; print(Table('t', ['x'], [[1]])); print('pandas' in sys.modules)"
    )
    assert python(code, paths=(ROOT,)).stdout.split() == ["t", "x", "1", "False"]
