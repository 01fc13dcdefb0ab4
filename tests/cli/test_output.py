"""Tables on the command line: for people, and as JSON."""

from __future__ import annotations

import json

import pytest

from probekit._table import Table
from probekit.cli import output

TABLE = Table("Means", ("site", "std"), [("relu1", 0.123456), ("2", None), ("3", float("nan"))])


def cells(printed: str) -> list[list[str]]:
    return [line.replace("┃", "│").split("│")[1:-1] for line in printed.splitlines() if line[0] in "┃│"]


def test_numbers_stand_right_and_gaps_are_dashes(capsys: pytest.CaptureFixture[str]) -> None:
    output.table(TABLE, as_json=False)
    printed = capsys.readouterr().out
    assert printed.startswith("Means\n")
    assert cells(printed) == [
        [" site  ", "    std "],
        [" relu1 ", " 0.1235 "],
        [" 2     ", "      – "],
        [" 3     ", "      – "],
    ]


def test_json_has_all_digits_and_null_for_gaps(capsys: pytest.CaptureFixture[str]) -> None:
    output.table(TABLE, as_json=True)
    assert json.loads(capsys.readouterr().out) == [
        {"site": "relu1", "std": 0.123456},
        {"site": "2", "std": None},
        {"site": "3", "std": None},
    ]


def test_a_table_without_rows_is_its_title(capsys: pytest.CaptureFixture[str]) -> None:
    output.table(Table("Nothing", ("site",), []), as_json=False)
    assert capsys.readouterr().out == "Nothing\n"


def test_a_terminals_commands_are_not_obeyed_nor_is_markup(capsys: pytest.CaptureFixture[str]) -> None:
    hostile = "\x1b[2J[bold]x[/bold]"
    output.table(Table(hostile, (hostile,), [(hostile,)]), as_json=False)
    printed = capsys.readouterr().out
    assert "\x1b" not in printed
    assert printed.count("\N{REPLACEMENT CHARACTER}[2J[bold]x[/bold]") == 3
