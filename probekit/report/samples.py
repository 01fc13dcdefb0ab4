"""Samples as a page shows them: a thumbnail, or a text in which a token is marked."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from probekit._measure.top_samples import TopSample
from probekit._table import shown
from probekit.errors import DataError
from probekit.plot.samples import pixels_of
from probekit.report.local_paths import without_folders

__all__ = ["Shown", "shown_samples"]

_SIDE = 144  # pixels of a thumbnail, at most: twice those of the page
_COARSE = 48  # pixels of a side, up to which they are shown one by one and kept as they are
_QUALITY = 82
_AROUND = 90  # characters on each side of a marked token


@dataclass(frozen=True)
class Shown:
    """One sample: an `image` as an address of data, or a text in three parts of which the second is marked."""

    caption: str
    image: str | None
    coarse: bool
    before: str
    marked: str
    after: str


def shown_samples(samples: Sequence[TopSample]) -> list[Shown]:
    """The samples as the page shows them: what they are, their class, and their value at the node."""
    return [_shown(each) for each in samples]


def _shown(sample: TopSample) -> Shown:
    named = f"sample {sample.sample if sample.sample_id is None else sample.sample_id}"
    caption = ", ".join([*([sample.class_name] if sample.class_name else []), named, shown(sample.value)])
    if sample.text is not None:
        return Shown(caption, None, False, *_parts(sample))
    picture = sample.file if sample.input is None else sample.input
    if picture is None:
        return Shown(caption, None, False, "", "", "")
    try:
        image = _thumbnail(pixels_of(picture, caption))
    except DataError as error:  # not every input is a picture, nor is every path a file that is still there
        return Shown(caption, None, False, f"No picture: {without_folders(str(error))}", "", "")
    return Shown(caption, _address(image), max(image.size) <= _COARSE, "", "", "")


def _parts(sample: TopSample) -> tuple[str, str, str]:
    """The text before the marked token, the token, and the text after it."""
    text = sample.text or ""
    if sample.start is None or sample.end is None:
        return _cut(text[: 2 * _AROUND + 1], 2 * _AROUND), "", ""
    before, after = text[: sample.start], text[sample.end :]
    before = before if len(before) <= _AROUND else f"…{before[-_AROUND:]}"
    return before, text[sample.start : sample.end], _cut(after, _AROUND)


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else f"{text[:length]}…"


def _thumbnail(pixels: np.ndarray[Any, Any]) -> Image.Image:
    image = Image.fromarray(np.round(255 * np.nan_to_num(pixels).clip(0, 1)).astype(np.uint8))
    image.thumbnail((_SIDE, _SIDE))
    return image


def _address(image: Image.Image) -> str:
    kind = "png" if max(image.size) <= _COARSE else "jpeg"
    file = io.BytesIO()
    (image if kind == "png" else image.convert("RGB")).save(file, kind, quality=_QUALITY, optimize=True)
    return f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode('ascii')}"
