"""The HTML page: self-contained, escaped, numbered, and written whole or not at all."""

from __future__ import annotations

import base64
import os
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from matplotlib.figure import Figure

from probekit.errors import DataError, ProbekitError
from probekit.report import Page

HOSTILE = '<script>alert("x")</script> & \'quotes\' {title} "><img src=http://evil.example/x.png>'
VOID = {"meta", "img"}


class Parsed(HTMLParser):
    """Tags, attributes and text of a page; fails on tags that don't nest."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.cells: list[list[str]] = []
        self.text: list[tuple[str, str]] = []
        self._open: list[str] = []
        self.feed(html)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in VOID:
            self._open.append(tag)
        if tag == "tr":
            self.cells.append([])
        if tag in ("th", "td"):
            self.cells[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append((self._open[-1] if self._open else "", data))
        if "td" in self._open or "th" in self._open:
            self.cells[-1][-1] += data

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attrs for name, attrs in self.tags if name == tag]

    def within(self, tag: str) -> list[str]:
        return [text for parent, text in self.text if parent == tag]


def _picture(path: Path, dpi: float = 80) -> Path:
    figure = Figure(figsize=(4, 3))
    figure.add_subplot().plot([1, 2])
    figure.savefig(path, dpi=dpi)
    return path


def _full_page(text: str, folder: Path) -> Page:
    page = Page(text, text).heading(text).heading(text, level=3).text(text).numbers({text: text}).code(text)
    page.figure(_picture(folder / "a.png"), text, text)
    return page.table([{text: text, "x": 1}], text, badges={"held": "good"})


def test_everything_is_escaped(tmp_path: Path) -> None:
    page = Parsed(_full_page(HOSTILE, tmp_path).html())
    assert not page.all("script")
    assert len(page.all("img")) == 1
    for tag in ("title", "h1", "h2", "h3", "p", "dt", "dd", "code", "th", "td", "a"):
        assert HOSTILE in page.within(tag), tag
    assert page.all("img")[0]["alt"] == HOSTILE


def test_the_page_needs_nothing_from_outside(tmp_path: Path) -> None:
    html = _full_page("plain", tmp_path).html()
    page = Parsed(html)
    assert all(attrs["src"].startswith("data:image/") for attrs in page.all("img"))
    assert {name for name, _ in page.tags} & {"script", "link", "iframe", "object", "base", "form"} == set()
    targets = {attrs["id"] for _, attrs in page.tags if "id" in attrs}
    assert {attrs["href"].removeprefix("#") for attrs in page.all("a")} == targets
    assert "http:" not in html
    assert "https:" not in html
    (style,) = page.within("style")
    assert "url(" not in style
    assert "@import" not in style


def test_text_keeps_paragraphs_apart_and_code_keeps_its_lines() -> None:
    page = Parsed(Page("t").text("one\nline\n\n two ").code("\na\n  b\n").html())
    assert page.within("p") == ["one\nline", "two"]
    assert page.within("code") == ["a\n  b"]


def test_contents_list_the_headings_once_there_are_two() -> None:
    assert not Parsed(Page("t").heading("only").html()).all("nav")
    page = Parsed(Page("t").heading("a").heading("b", level=3).html())
    assert page.within("a") == ["a", "b"]
    assert [attrs["href"] for attrs in page.all("a")] == ["#part-1", "#part-2"]


def test_a_picture_file_is_copied_bit_for_bit_and_shown_at_its_size_on_paper(tmp_path: Path) -> None:
    for dpi in (80, 200):
        path = _picture(tmp_path / "p.png", dpi)
        (image,) = Parsed(Page("t").figure(path, "Caption.").html()).all("img")
        assert base64.b64decode(image["src"].removeprefix("data:image/png;base64,")) == path.read_bytes()
        assert (image["width"], image["height"], image["alt"]) == ("400", "300", "Caption.")
    drawn = tmp_path / "v.svg"
    drawn.write_text("<svg xmlns='http://www.w3.org/2000/svg'/>")
    (image,) = Parsed(Page("t").figure(drawn, "c", "words").html()).all("img")
    assert base64.b64decode(image["src"].removeprefix("data:image/svg+xml;base64,")) == drawn.read_bytes()
    assert image["alt"] == "words"


def test_a_figure_or_its_axes_become_a_png() -> None:
    figure = Figure(figsize=(4, 3))
    ax = figure.add_subplot()
    page = Parsed(Page("t").figure(figure, "one").figure(ax, "two").html())
    first, second = page.all("img")
    assert first["src"] == second["src"]
    assert base64.b64decode(first["src"].partition(",")[2]).startswith(b"\x89PNG")
    assert (first["width"], first["height"]) == ("400", "300")
    assert page.within("b") == ["Figure 1.", "Figure 2."]


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


def test_key_numbers_stand_with_their_names() -> None:
    page = Parsed(Page("t").numbers({"inactive, %": 80.41234, "networks": 24, "gap": None}).html())
    assert page.within("dd") == ["80.41", "24", "–"]
    assert page.within("dt") == ["inactive, %", "networks", "gap"]


def test_a_torn_png_is_refused(tmp_path: Path) -> None:
    (tmp_path / "torn.png").write_bytes(b"\x89PN")
    with pytest.raises(DataError, match=r"torn\.png is no PNG"):
        Page("t").figure(tmp_path / "torn.png", "c")


@pytest.mark.parametrize(
    ("add", "message"),
    [
        (lambda page: page.heading("x", level=1), "level 2 or 3"),
        (lambda page: page.figure("missing.png", "c"), r"missing\.png can't be read: No such file"),
        (lambda page: page.figure("notes.txt", "c"), r"no picture.*\.png, \.svg"),
        (lambda page: page.table([], "c", badges={"x": "red"}), "tones good, bad, neutral; not red"),
        (lambda page: page.table(xr.DataArray(1.0), "c"), "numbers"),
    ],
)
def test_wrong_input_says_what_to_do_and_adds_nothing(add: Any, message: str) -> None:
    page = Page("t")
    before = page.html()
    with pytest.raises(DataError, match=message):
        add(page)
    assert page.html() == before


def test_write_makes_folders_and_returns_the_path(tmp_path: Path) -> None:
    path = tmp_path / "runs" / "digits" / "report.html"
    page = Page("½ & \udcff")
    assert page.write(str(path)) == path
    assert "½ &amp; &#56575;" in path.read_text(encoding="utf-8")
    assert os.listdir(path.parent) == ["report.html"]


def test_a_failed_write_leaves_the_old_page_and_no_rest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "report.html"
    Page("old").write(path)
    old = path.read_bytes()

    def refuse(source: Path, target: Path) -> None:
        assert b"new" in Path(source).read_bytes()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(ProbekitError, match=r"report\.html: No space left on device"):
        Page("new").write(path)
    assert path.read_bytes() == old
    assert os.listdir(tmp_path) == ["report.html"]


def test_a_folder_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("a file")
    with pytest.raises(ProbekitError, match="can't be written"):
        Page("t").write(tmp_path / "runs" / "report.html")


def test_one_format_for_all_columns_leaves_integers_as_they_are() -> None:
    page = Page("t").table([{"depth": 2, "accuracy": 97.531}], "c", formats=".2f").html()
    assert '<td class="num">2</td><td class="num">97.53</td>' in page
