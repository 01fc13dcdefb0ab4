"""What every figure is: it shows itself once, knows its panels, and saves itself whole."""

from __future__ import annotations

import base64
import io
import re
from pathlib import Path

import matplotlib.pyplot
import PIL.Image
import pytest
import torch
import xarray as xr
from matplotlib.figure import Figure

import probekit as pk
from probekit.errors import DataError, ProbekitError

TREE = xr.DataTree.from_dict({name: xr.Dataset({"sparsity_site": 0.5}) for name in ("relu1", "relu2")})


def _size(path: Path) -> tuple[int, int]:
    with PIL.Image.open(path) as image:
        return image.size


def _drawing() -> pk.plot.Drawing:
    return pk.plot.profile(TREE, "sparsity_site")


def test_a_notebook_shows_the_figure_in_its_size() -> None:
    shown = _drawing()._repr_png_()
    assert shown is not None
    image = PIL.Image.open(io.BytesIO(shown[0]))
    assert image.format == "PNG"
    assert shown[1]["width"] == round(6.4 * 96)
    assert image.width == 2 * shown[1]["width"]
    assert repr(_drawing()) == "<Drawing: 1 panel, 6.4 × 3.6 inches>"


def test_a_figure_of_pyplots_is_not_shown_twice() -> None:
    figure, ax = matplotlib.pyplot.subplots()
    try:
        drawing = pk.plot.profile(TREE, "sparsity_site", ax=ax)
        assert (drawing.figure, drawing.axes) == (figure, (ax,))
        assert drawing._repr_png_() is None
    finally:
        matplotlib.pyplot.close(figure)


def test_a_panel_of_a_subfigure_is_saved_with_the_whole_figure(tmp_path: Path) -> None:
    whole = Figure()
    part, _ = whole.subfigures(1, 2)
    drawing = pk.plot.profile(TREE, "sparsity_site", ax=part.add_subplot())
    assert drawing.figure is whole
    assert _size(drawing.save(tmp_path / "a.png", dpi=50))[0] > 150


@pytest.mark.parametrize(("suffix", "start"), [("png", b"\x89PNG"), ("SVG", b"<?xml"), ("pdf", b"%PDF")])
def test_save_writes_what_the_suffix_says(tmp_path: Path, suffix: str, start: bytes) -> None:
    path = _drawing().save(str(tmp_path / "new" / f"profile.{suffix}"))
    assert path == tmp_path / "new" / f"profile.{suffix}"
    assert path.read_bytes().startswith(start)
    assert [each.name for each in path.parent.iterdir()] == [path.name]


def test_the_resolution_makes_the_pixels(tmp_path: Path) -> None:
    assert _size(_drawing().save(tmp_path / "a.png", dpi=100)) == (640, 360)


def test_a_legend_beside_the_panel_is_saved_whole(tmp_path: Path) -> None:
    ax = Figure(figsize=(4, 3)).add_subplot()  # without a layout that makes room for it
    drawing = pk.plot.profile({"a long name of the first result": TREE, "b": TREE}, "sparsity_site", ax=ax)
    assert _size(drawing.save(tmp_path / "a.png", dpi=100))[0] > 450


@pytest.mark.parametrize(
    ("path", "options", "message"),
    [
        ("profile", {}, r"profile doesn't say by its suffix what to write; it may be .*\.png"),
        ("profile.docx", {}, r"\.svg"),
        ("a.png", {"dpi": 0}, "dpi is 0; it has to be more than 0"),
        ("a.png", {"dpi": "high"}, "dpi is a str, 'high'"),
        (3, {}, "path is an int, 3"),
    ],
)
def test_what_cannot_be_saved_is_refused(
    tmp_path: Path, path: object, options: dict[str, object], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        _drawing().save(tmp_path / path if isinstance(path, str) else path, **options)
    assert not [*tmp_path.iterdir()]


def test_a_disk_that_refuses_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ProbekitError, match=r"can't be written to .*a\.png"):
        _drawing().save(tmp_path / "file" / "a.png")


def test_the_standard_set_shows_every_figure_in_a_notebook() -> None:
    drawn = pk.plot.standard(pk.measure_live(torch.nn.Sequential(torch.nn.ReLU()), torch.eye(3), "mean"))
    shown = drawn._repr_html_()
    assert drawn
    assert [shown.count(f"<b>{name}</b>") for name in drawn] == [1] * len(drawn)
    for data in re.findall(r'src="data:image/png;base64,([^"]+)"', shown):
        assert PIL.Image.open(io.BytesIO(base64.b64decode(data))).width > 100
    assert shown.count("<img") == len(drawn)
    assert "&lt;b&gt;" in pk.plot.Drawings({"<b>": next(iter(drawn.values()))})._repr_html_()
