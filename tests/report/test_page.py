"""The HTML page: self-contained, escaped, numbered, and written whole or not at all."""

from __future__ import annotations

import base64
import os
import struct
import zlib
from pathlib import Path
from typing import Any

import PIL.Image
import pytest
import xarray as xr
from matplotlib.figure import Figure

from probekit.errors import DataError, ProbekitError
from probekit.plot import Drawing
from probekit.report import Page
from tests.report.parsed import Parsed

HOSTILE = '<script>alert("x")</script> & \'quotes\' {title} {{ title }} {% raw %} "><img src=http://evil.example/x.png>'


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
    assert len(page.all("script")) == 1  # ours
    assert len(page.all("img")) == 1
    for tag in ("title", "h1", "h2", "h3", "p", "dt", "dd", "code", "th", "td", "a"):
        assert HOSTILE in page.within(tag), tag
    assert page.all("img")[0]["alt"] == HOSTILE


def test_the_page_needs_nothing_from_outside(tmp_path: Path) -> None:
    html = _full_page("plain", tmp_path).html()
    page = Parsed(html)
    assert all(attrs["src"].startswith("data:image/") for attrs in page.all("img"))
    assert {name for name, _ in page.tags} & {"link", "iframe", "object", "base", "form"} == set()
    targets = {attrs["id"] for _, attrs in page.tags if "id" in attrs}
    assert {attrs["href"].removeprefix("#") for attrs in page.all("a")} == targets
    assert [attrs for attrs in page.all("script") if attrs] == []
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


def test_a_figure_its_axes_or_a_drawing_become_a_png() -> None:
    figure = Figure(figsize=(4, 3))
    ax = figure.add_subplot()
    page = Parsed(Page("t").figure(figure, "one").figure(ax, "two").figure(Drawing.of(ax), "three").html())
    first, second, third = page.all("img")
    assert first["src"] == second["src"] == third["src"]
    assert base64.b64decode(first["src"].partition(",")[2]).startswith(b"\x89PNG")
    assert (first["width"], first["height"]) == ("400", "300")
    assert page.within("b") == ["Figure 1.", "Figure 2.", "Figure 3."]


def test_key_numbers_stand_with_their_names() -> None:
    page = Parsed(Page("t").numbers({"inactive, %": 80.41234, "networks": 24, "gap": None}).html())
    assert page.within("dd") == ["80.41", "24", "–"]
    assert page.within("dt") == ["inactive, %", "networks", "gap"]


@pytest.mark.parametrize("kept", [0, 3, 8, 20, 30, 40])
def test_a_torn_png_is_refused(tmp_path: Path, kept: int) -> None:
    path = _picture(tmp_path / "torn.png")
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(DataError, match=r"torn\.png isn't a PNG"):
        Page("t").figure(path, "c")


def test_a_png_that_states_no_resolution_is_shown_pixel_by_pixel(tmp_path: Path) -> None:
    path = tmp_path / "p.png"
    PIL.Image.new("RGB", (30, 20)).save(path)
    (image,) = Parsed(Page("t").figure(path, "c").html()).all("img")
    assert (image["width"], image["height"]) == ("30", "20")

    data = bytearray(path.read_bytes())
    data[16:24] = struct.pack(">II", 40_000, 30_000)  # more pixels than Pillow agrees to decode
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    path.write_bytes(data)
    (image,) = Parsed(Page("t").figure(path, "c").html()).all("img")
    assert (image["width"], image["height"]) == ("40000", "30000")


@pytest.mark.parametrize(
    ("add", "message"),
    [
        (lambda page: page.heading("x", level=1), "level 2 or 3"),
        (lambda page: page.figure("missing.png", "c"), r"missing\.png can't be read: No such file"),
        (lambda page: page.figure("notes.txt", "c"), r"isn't a picture.*\.png, \.svg"),
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
