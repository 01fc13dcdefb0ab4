"""Grids of pictures, and texts with a token marked."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch
from matplotlib import colormaps
from matplotlib.backends.backend_agg import FigureCanvasAgg

import probekit as pk
from probekit.errors import DataError

GREY = np.arange(12, dtype=np.uint8).reshape(3, 4) * 20


def _shown(picture: object) -> np.ndarray:
    (ax,) = pk.plot.images({"a": [picture]}).axes
    return np.asarray(ax.images[0].get_array())


@pytest.mark.parametrize(
    ("picture", "expected"),
    [
        (GREY, GREY / 255),
        (GREY / 255, GREY / 255),
        (torch.from_numpy(GREY)[None], GREY / 255),
        (np.stack([GREY] * 3, -1), np.stack([GREY] * 3, -1) / 255),
        (torch.from_numpy(np.stack([GREY] * 3)), np.stack([GREY] * 3, -1) / 255),
        (GREY[..., None], GREY / 255),
        (GREY * 2.0 - 100, GREY / 220),
        (np.full((3, 4), -2.0), np.zeros((3, 4))),
        (PIL.Image.fromarray(GREY), np.stack([GREY] * 3 + [np.full_like(GREY, 255)], -1) / 255),
    ],
    ids=["bytes", "0 to 1", "channel first", "rgb", "rgb first", "channel last", "stretched", "constant", "pil"],
)
def test_a_picture_is_drawn_as_it_is(picture: object, expected: np.ndarray) -> None:
    np.testing.assert_allclose(_shown(picture), expected, atol=1e-6)


def test_a_file_is_drawn_at_the_size_of_a_thumbnail(tmp_path: Path) -> None:
    PIL.Image.new("RGB", (2000, 1000), "#ff0000").save(tmp_path / "a.png")
    shown = _shown(tmp_path / "a.png")
    assert shown.shape == (128, 256, 4)
    assert (shown[..., 0] == 1).all()


def test_rows_have_names_and_captions() -> None:
    rows = {"relu1 [3]": [GREY, GREY, GREY], "x" * 40 + " [7]": [GREY]}
    drawing = pk.plot.images(rows, captions={"relu1 [3]": [1.23456, "cat", None], "x" * 40 + " [7]": ["$"]})
    assert [ax.get_xlabel() for ax in drawing.axes] == ["1.235", "cat", "–", r"\$"]
    names = [ax.get_ylabel() for ax in drawing.axes]
    assert names[:3] == ["relu1 [3]", "", ""]
    assert names[3].startswith("…")
    assert names[3].endswith(" [7]")


TEXT = "The cat sat on the mat."


def test_a_token_is_marked_in_its_text() -> None:
    drawing = pk.plot.sentences({"h.3 [17]": [(TEXT, 4, 7, 2.0), (TEXT, 19, 22, 1.0)], "h.3 [2]": [(TEXT, 0, 3, 5.0)]})
    first, second = drawing.axes
    assert first.get_title("left") == "h.3 [17]"
    assert [text.get_text() for text in first.texts[:4]] == ["2", "cat", "The ", " sat on the mat."]
    assert [text.get_text() for text in second.texts] == ["5", "The", "", " cat sat on the mat."]
    colours = [text.get_bbox_patch().get_facecolor() for text in first.texts if text.get_bbox_patch()]
    assert colours == [colormaps["Oranges"](0.62), colormaps["Oranges"](0.37)]


def test_the_parts_of_a_text_touch_and_the_marks_stand_below_each_other() -> None:
    drawing = pk.plot.sentences({"a": [(TEXT, 4, 7, 2.0), (TEXT, 8, 11, 1.0)]})
    canvas = FigureCanvasAgg(drawing.figure)
    canvas.draw()
    boxes = [text.get_window_extent(canvas.get_renderer()) for text in drawing.axes[0].texts]
    for mark, before, after in (boxes[1:4], boxes[5:8]):
        assert before.x1 == pytest.approx(mark.x0, abs=1.5)
        assert mark.x1 == pytest.approx(after.x0, abs=1.5)
    assert boxes[1].x0 + boxes[1].x1 == pytest.approx(boxes[5].x0 + boxes[5].x1, abs=2)


def test_long_texts_are_cut_around_the_token() -> None:
    text = "word " * 100
    _, mark, before, after = pk.plot.sentences({"a": [(text, 250, 254, 1.0)]}).axes[0].texts
    assert (mark.get_text(), len(before.get_text()), len(after.get_text())) == ("word", 44, 44)
    assert before.get_text().startswith("…")
    assert before.get_text().endswith("word ")
    assert after.get_text().endswith("…")
    assert len(pk.plot.sentences({"a": [(text, 0, 100, 1.0)]}).axes[0].texts[1].get_text()) == 24


def test_what_would_not_be_seen_is_shown(tmp_path: Path) -> None:
    drawing = pk.plot.sentences({"a": [("a\n  $b$\x1b", 2, 4, 0.0), ("a\nb", 1, 2, float("nan"))]})
    texts = [text.get_text() for text in drawing.axes[0].texts]
    assert texts == ["0", "␣␣", "a⏎", r"\$b\$�", "–", "⏎", "a", "b"]
    drawing.save(tmp_path / "a.png", dpi=30)


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (lambda: pk.plot.images({}), "no pictures to draw"),
        (lambda: pk.plot.images({"a": []}), "'a' has no pictures"),
        (lambda: pk.plot.images([GREY]), "rows is a list"),
        (lambda: pk.plot.images({"a": [np.zeros(3)]}), r"Picture 0 of 'a' has the shape \(3,\)"),
        (lambda: pk.plot.images({"a": [np.zeros((2, 4, 5))]}), r"shape \(2, 4, 5\)"),
        (lambda: pk.plot.images({"a": [np.full((2, 2), "x")]}), "dtype <U1"),
        (lambda: pk.plot.images({"a": ["/nowhere/b.png"]}), r"Picture 0 of 'a' can't be read.*b\.png"),
        (lambda: pk.plot.images({"a": [GREY]}, captions={"a": []}), "'a' has 1 pictures and 0 captions"),
        (lambda: pk.plot.images({"a": [GREY]}, captions={"b": [1]}), "'a' has 1 pictures and 0 captions"),
        (lambda: pk.plot.sentences({"a": "text"}), "'a' has no texts"),
        (lambda: pk.plot.sentences({"a": [("cat", 1, 4, 1.0)]}), "Text 0 of 'a' is marked from 1 to 4, and it has 3"),
    ],
)
def test_what_is_no_sample_is_refused(draw, message: str) -> None:
    with pytest.raises(DataError, match=message):
        draw()


def _top(tmp_path: Path, data: object, **options: object) -> tuple[Path, object]:
    path = tmp_path / "a.zarr"
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 3), torch.nn.ReLU())
    pk.capture(model, data, path, sites="2", **options)
    return path, pk.top(pk.measure(path, "auroc"), per_class=1)


def test_the_samples_of_top_nodes_are_drawn_as_pictures(tmp_path: Path) -> None:
    torch.manual_seed(0)
    data = torch.rand(40, 1, 4, 4), torch.arange(40) % 2
    store, best = _top(tmp_path, data)
    found = best.samples(store, n=3, data=data)
    drawing = pk.plot.samples(found)
    assert len(drawing.axes) == 3 * len({(each.site, each.node) for each in found.samples})
    for ax, sample in zip(drawing.axes, found.samples, strict=True):
        np.testing.assert_allclose(ax.images[0].get_array(), data[0][sample.sample, 0])
        assert ax.get_xlabel() == f"{sample.class_name}, {sample.value:.4g}"
    with pytest.raises(DataError, match=r"no texts, .*samples\(store, data=...\)"):
        pk.plot.samples(best.samples(store, n=3))
    with pytest.raises(DataError, match="found is a list"):
        pk.plot.samples([1])


def test_the_samples_of_top_nodes_are_drawn_as_texts(tmp_path: Path) -> None:
    torch.manual_seed(0)
    texts = [f"text number {number}" for number in range(40)]
    store, best = _top(tmp_path, (torch.rand(40, 16), torch.arange(40) % 2), columns={"text": texts})
    found = best.samples(store, n=2)
    ax = pk.plot.samples(found).axes[0]
    assert [text.get_text() for text in ax.texts] == [
        part for each in found.samples[:2] for part in (f"{each.value:.4g}", texts[each.sample])
    ]
