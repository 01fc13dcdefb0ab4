"""What nodes respond to: grids of images, and sentences with a token marked."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from types import NoneType
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from matplotlib import colormaps
from matplotlib.axes import Axes
from PIL import Image
from torch import Tensor

from probekit._files import local_path
from probekit._measure.top_samples import TopSample, TopSamples
from probekit._table import shown
from probekit.errors import DataError, check_kind
from probekit.errors import plain as printable
from probekit.plot.drawing import Drawing
from probekit.plot.style import INK, RULE, new_figure, plain, short_site

__all__ = ["Marked", "Picture", "images", "pixels_of", "samples", "sentences"]

Picture: TypeAlias = str | os.PathLike[str] | Image.Image | Tensor | npt.ArrayLike
Marked: TypeAlias = tuple[str, int, int, float]

_SIDE = 1.1  # inches of a picture
_MOST_PIXELS = 256  # of a side: a picture is an inch wide
_LINE = 0.24  # inches of a line of text
_CONTEXT = 44  # characters kept on each side of the marked token
_LONGEST_TOKEN = 24
_WHOLE = 2 * _CONTEXT + _LONGEST_TOKEN  # characters kept of a text in which nothing is marked
_WIDTH = 9.0
_BASELINE = 0.14  # of a line: how far the middle of its letters lies above their baseline
_VALUE = "#6a6a6a"
_TYPE: dict[str, Any] = {"va": "baseline", "fontsize": "small", "family": "monospace", "color": INK}
_LONGEST_NAME = 14  # characters of a class below a picture
_BREAKS = str.maketrans({"\n": "⏎", "\r": "", "\t": " "})


def images(rows: Mapping[str, Sequence[Picture]], *, captions: Mapping[str, Sequence[object]] | None = None) -> Drawing:
    """A grid of pictures, a row for each name, such as a node and the samples that excite it most.

    A picture is a path, a PIL image, or an array or tensor: (height, width), or with an axis of channels, which is the
    first of a tensor and the last of an array where its length allows. Bytes are drawn as they are, and so are numbers
    from 0 to 1; other numbers, as of a normalised input, are stretched so that the least of the picture is black and
    the largest white. `captions` has a text or a number for below each picture.

    Raises DataError for what isn't a picture, or a caption too many or too few.

    >>> import numpy as np
    >>> drawing = images({"relu1 [3]": np.zeros((2, 8, 8))}, captions={"relu1 [3]": [0.91, 0.8734]})
    >>> [ax.get_xlabel() for ax in drawing.axes]
    ['0.91', '0.8734']
    """
    _check_rows(rows, "pictures")
    below = _captions(rows, captions)
    columns = max(map(len, rows.values()))
    height = _SIDE + (0.25 if captions is not None else 0.08)
    figure = new_figure(1.6 + _SIDE * columns, 0.1 + height * len(rows))
    panels = []
    for row, (name, pictures) in enumerate(rows.items()):
        for column, picture in enumerate(pictures):
            ax = figure.add_subplot(len(rows), columns, row * columns + column + 1)
            pixels = pixels_of(picture, f"Picture {column} of {name!r}")
            ax.imshow(pixels, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
            ax.set(xticks=[], yticks=[])
            ax.spines[:].set_color(RULE)
            if captions is not None:
                ax.set_xlabel(plain(shown(below[name][column])), fontsize="x-small", labelpad=2)
            if column == 0:
                ax.set_ylabel(short_site(name), rotation=0, ha="right", va="center", fontsize="small", labelpad=6)
            panels.append(ax)
    return Drawing.of(*panels)


def sentences(rows: Mapping[str, Sequence[Marked]]) -> Drawing:
    """Texts with a token marked, a panel for each name, such as a node and the samples that excite it most.

    A text is ``(text, start, end, value)``: its characters from `start` to before `end` are marked, the darker the
    larger the `value` beside the others of the panel, which stands in front. The marked tokens stand below each other,
    with as much of the text on both sides as there is room for. A text in which nothing is marked, since `start` is
    `end`, is shown from its beginning.

    Raises DataError for a mark outside its text.

    >>> drawing = sentences({"h.3 [17]": [("The cat sat.", 4, 7, 2.5)]})
    >>> [text.get_text() for text in drawing.axes[0].texts]
    ['2.5', 'cat', 'The ', ' sat.']
    """
    _check_rows(rows, "texts")
    lines = sum(map(len, rows.values()))
    figure = new_figure(_WIDTH, 0.1 + _LINE * lines + 0.34 * len(rows))
    grid = figure.add_gridspec(len(rows), 1, height_ratios=[len(texts) + 1.4 for texts in rows.values()])
    panels = [figure.add_subplot(grid[row]) for row in range(len(rows))]
    for ax, (name, texts) in zip(panels, rows.items(), strict=True):
        _write_texts(ax, name, texts)
    return Drawing.of(*panels)


def samples(found: TopSamples) -> Drawing:
    """The samples to which nodes answer most, a row or a panel for each node.

    `found` is what ``probekit.top(m).samples(store)`` gave. Where the samples have texts, they are drawn as
    `sentences`, with the token marked at sites of tokens; otherwise as `images`, of the data set that was given to
    ``samples(store, data=…)`` or of the files that the store names.

    Raises DataError where they have neither.

    >>> import torch, probekit as pk
    >>> x, y = torch.rand(40, 1, 4, 4), torch.arange(40) % 2
    >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 3), torch.nn.ReLU())
    >>> tree = pk.capture(model, (x, y), "top.zarr", sites="2")  # doctest: +SKIP
    >>> best = pk.top(pk.measure("top.zarr", "auroc"), per_class=1)  # doctest: +SKIP
    >>> pk.plot.samples(best.samples("top.zarr", n=4, data=(x, y)))  # doctest: +SKIP
    """
    check_kind("found", found, TopSamples, "what probekit.top(...).samples(store) gives")
    of_nodes: dict[str, list[TopSample]] = {}
    for sample in found.samples:
        of_nodes.setdefault(f"{sample.site} [{sample.node}]", []).append(sample)
    if all(sample.text is not None for sample in found.samples):
        return sentences({node: [_marked(each) for each in of] for node, of in of_nodes.items()})
    pictures: dict[str, list[Any]] = {
        node: [each.file if each.input is None else each.input for each in of] for node, of in of_nodes.items()
    }
    if any(each is None for of in pictures.values() for each in of):
        raise DataError(
            "The samples have no texts, and the store knows no files of theirs. Give the data set that was captured: "
            "samples(store, data=...).",
            arguments=("found",),
        )
    files = (each for of in pictures.values() for each in of if isinstance(each, str))
    if lost := next((each for each in files if not os.path.isfile(each)), None):
        raise DataError(
            f"The images aren't where they were when they were captured, such as {lost}. Draw them in the folder in "
            "which the capture ran, or give the data set that was captured: samples(store, data=...).",
            arguments=("found",),
        )
    return images(pictures, captions={node: list(map(_caption, of)) for node, of in of_nodes.items()})


def _caption(sample: TopSample) -> str:
    """The class of a sample, where that is known, and the node's value."""
    name = sample.class_name
    if name is None:
        return shown(sample.value)
    return f"{name if len(name) <= _LONGEST_NAME else name[: _LONGEST_NAME - 1] + '…'}, {shown(sample.value)}"


def _marked(sample: TopSample) -> Marked:
    return sample.text or "", sample.start or 0, sample.end or 0, sample.value


def _check_rows(rows: Mapping[str, Sequence[Any]], what: str) -> None:
    check_kind("rows", rows, Mapping, f"{what} by name, {{name: [...]}}")
    if not rows:
        raise DataError(f"There are no {what} to draw.", arguments=("rows",))
    for name, each in rows.items():
        if isinstance(each, str) or len(each) == 0:
            raise DataError(f"{name!r} has no {what}.", arguments=("rows",))


def _captions(
    rows: Mapping[str, Sequence[Picture]], captions: Mapping[str, Sequence[object]] | None
) -> Mapping[str, Sequence[object]]:
    """The captions, one for each picture."""
    check_kind("captions", captions, (Mapping, NoneType), "texts or numbers by name, {name: [...]}")
    if captions is None:
        return {}
    for name, pictures in rows.items():
        given = len(captions.get(name, ()))
        if given != len(pictures):
            raise DataError(f"{name!r} has {len(pictures)} pictures and {given} captions.", arguments=("captions",))
    return captions


def pixels_of(picture: Picture, which: str) -> npt.NDArray[Any]:
    """A picture as numbers from 0 to 1, (height, width) grey or (height, width, 3 or 4)."""
    if isinstance(picture, str | os.PathLike | Image.Image):
        return _of_file(picture, which)
    pixels = picture.detach().cpu().numpy() if isinstance(picture, Tensor) else np.asarray(picture)
    channels_first = isinstance(picture, Tensor) or (pixels.ndim == 3 and pixels.shape[-1] not in (1, 3, 4))
    if pixels.ndim == 3 and channels_first and pixels.shape[0] in (1, 3):
        pixels = np.moveaxis(pixels, 0, -1)
    if pixels.ndim == 3 and pixels.shape[-1] == 1:
        pixels = pixels[..., 0]
    if pixels.dtype.kind not in "iufb" or not (pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[-1] in (3, 4))):
        raise DataError(
            f"{which} has the shape {pixels.shape} and the dtype {pixels.dtype}; it has to be (height, width), with or "
            "without an axis of 1, 3 or 4 channels.",
            arguments=("rows",),
        )
    return _stretched(pixels)


def _of_file(picture: str | os.PathLike[str] | Image.Image, which: str) -> npt.NDArray[Any]:
    try:
        with (
            Image.open(local_path(picture, "rows")) if not isinstance(picture, Image.Image) else picture.copy() as image
        ):
            image.thumbnail((_MOST_PIXELS, _MOST_PIXELS))
            return np.asarray(image.convert("RGBA")) / 255
    except (OSError, SyntaxError) as error:
        raise DataError(f"{which} can't be read: {error}.", arguments=("rows",)) from error


def _stretched(pixels: npt.NDArray[Any]) -> npt.NDArray[Any]:
    if pixels.dtype == np.uint8:
        return pixels / 255
    values = pixels.astype(float)
    low, high = np.nanmin(values), np.nanmax(values)
    return values if low >= 0 and high <= 1 else (values - low) / ((high - low) or 1)


def _write_texts(ax: Axes, name: str, texts: Sequence[Marked]) -> None:
    """Write one panel: the values in front, the tokens below each other, their texts to both sides."""
    parts = [_around(marked, f"Text {row} of {name!r}") for row, marked in enumerate(texts)]
    values = np.array([value for *_, value in texts], dtype=float)
    ax.set(xlim=(0, 1), ylim=(len(texts) - 0.5, -0.5))
    ax.set_axis_off()
    ax.set_title(plain(name), fontsize="small", fontweight="bold", loc="left")
    for row, ((before, token, after), shade) in enumerate(zip(parts, _shades(values), strict=True)):
        line = row + _BASELINE
        ax.text(0.065, line, shown(float(values[row])), ha="right", **_TYPE | {"color": _VALUE})
        if not token:
            ax.text(0.09, line, after, ha="left", **_TYPE)
            continue
        box = {"boxstyle": "square,pad=0.12", "facecolor": colormaps["Oranges"](shade), "linewidth": 0}
        mark = ax.text(0.52, line, token, ha="center", bbox=box, **_TYPE)
        # Beside the mark, wherever its font makes it end.
        ax.annotate(before, (0, line), xycoords=(mark, "data"), ha="right", **_TYPE)
        ax.annotate(after, (1, line), xycoords=(mark, "data"), ha="left", **_TYPE)


def _around(marked: Marked, where: str) -> tuple[str, str, str]:
    """What stands before a mark, the mark, and what stands after it, each cut to fit."""
    text, start, end, _ = marked
    if start == end:
        return "", "", _visible(text if len(text) <= _WHOLE else text[: _WHOLE - 1] + "…")
    if not 0 <= start < end <= len(text):
        raise DataError(
            f"{where} is marked from {start} to {end}, and it has {len(text)} characters.", arguments=("rows",)
        )
    token = text[start:end] if text[start:end].strip(" ") else "␣" * (end - start)
    before, after = text[:start], text[end:]
    return (
        _visible(before if len(before) <= _CONTEXT else "…" + before[1 - _CONTEXT :]),
        _visible(token if len(token) <= _LONGEST_TOKEN else token[: _LONGEST_TOKEN - 1] + "…"),
        _visible(after if len(after) <= _CONTEXT else after[: _CONTEXT - 1] + "…"),
    )


def _visible(text: str) -> str:
    """Text for one line of a figure."""
    return plain(printable(text.translate(_BREAKS)))


def _shades(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """How dark each mark is: from 0 (or the least value) to the largest; NaN are lightest."""
    low, high = min(np.nanmin(values), 0.0), np.nanmax(values)
    return 0.12 + 0.5 * np.nan_to_num((values - low) / ((high - low) or 1))
