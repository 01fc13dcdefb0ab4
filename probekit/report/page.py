"""One self-contained HTML page from text, figures and tables: images inlined, no script, no address to fetch."""

from __future__ import annotations

import base64
import io
import os
import struct
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from itertools import groupby
from numbers import Integral, Real
from pathlib import Path
from typing import Self, TypeAlias

import pandas as pd
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from probekit.errors import DataError, ProbekitError

__all__ = ["Outcome", "Page", "Picture", "Tabular"]

Picture: TypeAlias = str | os.PathLike[str] | Figure | Axes
Tabular: TypeAlias = pd.DataFrame | xr.DataArray | xr.Dataset | Sequence[Mapping[str, object]]

_MEDIA = {".png": "image/png", ".svg": "image/svg+xml", ".jpg": "image/jpeg", ".jpeg": "image/jpeg"}
_TONES = ("good", "bad", "neutral")
_DPI = 160  # of figures drawn here
_CSS_PER_INCH = 100  # every picture is shown at one scale, so that type has one size throughout the page
_LONG = 40  # characters from which a cell is prose, and gets room to wrap


@dataclass(frozen=True)
class Outcome:
    """What a recipe's ``run`` returns: its report, and the tables that are worth printing, by title."""

    report: Path
    tables: Mapping[str, pd.DataFrame]


class Page:
    """A page under construction: each method adds a block at the end and returns the page.

    All text is taken as it is, never as HTML. Figures and tables are numbered in the order in which they are added, and
    the headings make a table of contents.

    >>> page = Page("Digits", "What 200 units do.").heading("Sparsity")
    >>> page = page.table([{"layer": "relu1", "inactive": 0.804}], "By layer.", formats={"inactive": ".1%"})
    >>> "80.4%" in page.html()
    True
    """

    def __init__(self, title: str, lede: str = "") -> None:
        self.title, self.lede = title, lede
        self._blocks: list[str] = []
        self._headings: list[tuple[int, str]] = []
        self._figures = self._tables = 0

    def heading(self, text: str, level: int = 2) -> Self:
        """A heading: `level` 2 for a section, 3 within one."""
        if level not in (2, 3):
            raise DataError(f"A heading has level 2 or 3 (1 is the title), not {level}.")
        self._headings.append((level, text))
        return self._add(f'<h{level} id="part-{len(self._headings)}">{escape(text)}</h{level}>')

    def text(self, paragraph: str) -> Self:
        """A paragraph; a blank line in it begins another."""
        parts = [part.strip() for part in paragraph.split("\n\n")]
        return self._add("\n".join(f"<p>{escape(part)}</p>" for part in parts if part))

    def numbers(self, values: Mapping[str, object]) -> Self:
        """The few numbers that matter most, each large above its name."""
        tiles = [f"<div><dd>{escape(_shown(v))}</dd><dt>{escape(name)}</dt></div>" for name, v in values.items()]
        return self._add(f'<dl class="numbers">{"".join(tiles)}</dl>')

    def code(self, text: str) -> Self:
        """Commands or code, with its line breaks."""
        return self._add(f'<pre tabindex="0"><code>{escape(text.strip(chr(10)))}</code></pre>')

    def figure(self, picture: Picture, caption: str, alt: str | None = None) -> Self:
        """A numbered figure: a PNG, JPEG or SVG file, or what `probekit.plot` returned, copied into the page now.

        `alt` says in words what the picture shows, for readers who don't see it; without it the caption has to do.
        Raises DataError for a file that isn't there or is no picture of these kinds.
        """
        media, data = _picture(picture)
        self._figures += 1
        size = _size(data) if media == "image/png" else ""
        source = f"data:{media};base64,{base64.b64encode(data).decode('ascii')}"
        return self._add(
            f'<figure><img src="{source}" alt="{escape(alt or caption)}"{size}>'
            f"<figcaption><b>Figure {self._figures}.</b> {escape(caption)}</figcaption></figure>"
        )

    def table(
        self,
        data: Tabular,
        caption: str,
        *,
        formats: Mapping[Hashable, str] | str = "",
        badges: Mapping[str, str] | None = None,
    ) -> Self:
        """A numbered table of a DataFrame, a DataArray, a Dataset, or rows as mappings; wide ones scroll.

        `formats` gives the numbers' format specification, one for all columns but those of integers, or one for each by
        name (for columns of several levels: by the tuple, or by the last level). Numbers without one show four digits,
        missing values a dash. `badges` marks cells that hold exactly one of its keys in a tone: "good", "bad" or
        "neutral".

        >>> page = Page("Claims").table(
        ...     [{"claim": "deeper is sparser", "status": "not_held"}], "Claims.", badges={"not_held": "bad"}
        ... )
        >>> '<span class="badge bad">not held</span>' in page.html()
        True
        """
        if wrong := set(badges.values()) - set(_TONES) if badges else set():
            raise DataError(f"A badge has one of the tones {', '.join(_TONES)}; not {', '.join(sorted(wrong))}.")
        frame = _frame(data)
        self._tables += 1
        body = "".join(f"<tr>{''.join(cells)}</tr>" for cells in _rows(frame, formats, badges or {}))
        return self._add(
            f'<figure class="table"><figcaption><b>Table {self._tables}.</b> {escape(caption)}</figcaption>'
            f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(caption)}">'
            f"<table><thead>{_header(frame)}</thead><tbody>{body}</tbody></table></div></figure>"
        )

    def html(self) -> str:
        """The whole page as a string."""
        lede = f'<p class="lede">{escape(self.lede)}</p>' if self.lede else ""
        blocks = "\n".join(self._blocks)
        return _PAGE.format(title=escape(self.title), style=_STYLE, lede=lede, contents=self._contents(), blocks=blocks)

    def write(self, path: str | os.PathLike[str]) -> Path:
        """Write the page and return its path; whatever happens, `path` holds the old page or the new one, whole.

        Missing folders are made. Raises ProbekitError where the disk refuses.
        """
        target = Path(path)
        partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                # File names that are no valid UTF-8 may reach a caption; they must not cost the page.
                partial.write_bytes(self.html().encode("utf-8", "xmlcharrefreplace"))
                os.replace(partial, target)
            finally:
                partial.unlink(missing_ok=True)
        except OSError as error:
            raise ProbekitError(f"The report can't be written to {target}: {error.strerror or error}.") from error
        return target

    def _add(self, block: str) -> Self:
        self._blocks.append(block)
        return self

    def _contents(self) -> str:
        if len(self._headings) < 2:
            return ""
        items = [
            f'<li class="level-{level}"><a href="#part-{number}">{escape(text)}</a></li>'
            for number, (level, text) in enumerate(self._headings, start=1)
        ]
        return f'<nav aria-label="Contents"><ol>{"".join(items)}</ol></nav>'


def _picture(picture: Picture) -> tuple[str, bytes]:
    """Media type and bytes of a picture."""
    if isinstance(picture, Figure | Axes):
        file = io.BytesIO()
        picture.figure.canvas.figure.savefig(file, format="png", dpi=_DPI, facecolor="white")
        return _MEDIA[".png"], file.getvalue()
    path = Path(picture)
    if path.suffix.lower() not in _MEDIA:
        raise DataError(f"{path} is no picture that a page can hold: give a {', '.join(_MEDIA)} file or a Figure.")
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"The picture {path} can't be read: {error.strerror or error}.") from error
    if path.suffix.lower() == ".png" and not data.startswith(b"\x89PNG\r\n\x1a\n"):
        raise DataError(f"{path} is no PNG, whatever its name says. Was it written to its end?")
    return _MEDIA[path.suffix.lower()], data


def _size(png: bytes) -> str:
    """Attributes with the size at which to show a PNG, from its pixels and its resolution if it states one."""
    width, height = struct.unpack(">II", png[16:24])
    at = png.find(b"pHYs", 24, png.find(b"IDAT"))
    per_metre = struct.unpack(">I", png[at + 4 : at + 8])[0] if at > 0 and png[at + 12] == 1 else 0
    scale = _CSS_PER_INCH / (per_metre * 0.0254) if per_metre else 1.0
    return f' width="{round(width * scale)}" height="{round(height * scale)}"'


def _frame(data: Tabular) -> pd.DataFrame:
    if isinstance(data, pd.DataFrame):
        return data
    if isinstance(data, xr.Dataset | xr.DataArray) and not data.dims:
        raise DataError("Values without a dimension make no table: show them with numbers({name: value}).")
    if isinstance(data, xr.Dataset):
        return data.to_dataframe()
    if isinstance(data, xr.DataArray) and data.ndim == 2:
        rows, columns = map(data.get_index, data.dims)
        return pd.DataFrame(data.values, index=rows, columns=columns)
    if isinstance(data, xr.DataArray):
        return data.reset_coords(drop=True).to_dataset(name=data.name or "value").to_dataframe()
    return pd.DataFrame([dict(row) for row in data], dtype=object)


def _has_index(frame: pd.DataFrame) -> bool:
    """Whether the index says something: it has a name, or isn't just 0, 1, 2, …"""
    return any(name is not None for name in frame.index.names) or not isinstance(frame.index, pd.RangeIndex)


def _levels(key: Hashable) -> tuple[Hashable, ...]:
    return key if isinstance(key, tuple) else (key,)


def _header(frame: pd.DataFrame) -> str:
    """A row of headings for each level of the columns; equal neighbours under one parent share a cell."""
    depth = frame.columns.nlevels
    names = list(frame.index.names) if _has_index(frame) else []
    index = "".join(f'<th rowspan="{depth}">{escape(str(name or ""))}</th>' for name in names)
    numeric = [_is_numeric(frame, at) for at in range(frame.shape[1])]
    rows = []
    for level in range(depth):
        cells = []
        for columns in _runs(frame, level):
            kind = "group" if level < depth - 1 else "num" if numeric[columns[0]] else ""
            name = _levels(frame.columns[columns[0]])[level]
            cells.append(f'<th colspan="{len(columns)}" class="{kind}">{escape(str(name))}</th>')
        rows.append(f"<tr>{index if level == 0 else ''}{''.join(cells)}</tr>")
    return "".join(rows)


def _runs(frame: pd.DataFrame, level: int) -> Iterator[list[int]]:
    """The columns in runs of neighbours with equal names down to `level`."""
    prefixes = [_levels(name)[: level + 1] for name in frame.columns]
    for _, run in groupby(range(len(prefixes)), prefixes.__getitem__):
        yield list(run)


def _rows(frame: pd.DataFrame, formats: Mapping[Hashable, str] | str, badges: Mapping[str, str]) -> Iterator[list[str]]:
    numeric = [_is_numeric(frame, at) for at in range(frame.shape[1])]
    specs = [_format(formats, frame, at) for at in range(frame.shape[1])]
    for position, key in enumerate(frame.index):
        heads = [f"<th>{escape(_shown(name))}</th>" for name in _levels(key)] if _has_index(frame) else []
        values = (frame.iat[position, column] for column in range(frame.shape[1]))
        yield heads + [_cell(*parts, badges) for parts in zip(values, specs, numeric, strict=True)]


def _format(formats: Mapping[Hashable, str] | str, frame: pd.DataFrame, at: int) -> str:
    """The format of the column at a place."""
    if isinstance(formats, str):
        return "" if all(isinstance(value, Integral) for value in frame.iloc[:, at]) else formats
    column = frame.columns[at]
    return formats.get(column, formats.get(_levels(column)[-1], ""))


def _cell(value: object, spec: str, numeric: bool, badges: Mapping[str, str]) -> str:
    if isinstance(value, str) and value in badges:
        return f'<td><span class="badge {badges[value]}">{escape(value.replace("_", " "))}</span></td>'
    shown = _shown(value, spec)
    kind = "num" if numeric else "long" if len(shown) >= _LONG else ""
    return f'<td class="{kind}">{escape(shown)}</td>'


def _is_numeric(frame: pd.DataFrame, column: int) -> bool:
    """Whether a column holds numbers and nothing else but gaps."""
    present = [value for value in frame.iloc[:, column] if not _is_missing(value)]
    return bool(present) and all(map(_is_number, present))


def _is_number(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def _is_missing(value: object) -> bool:
    return value is None or value is pd.NaT or value is pd.NA or (isinstance(value, Real) and value != value)


def _shown(value: object, spec: str = "") -> str:
    """A value as a reader wants it: numbers to their format or four digits, a dash for what is missing."""
    if _is_missing(value):
        return "–"
    if _is_number(value):
        return format(value, spec or ("" if isinstance(value, Integral) else ".4g"))
    return str(value)


_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<main>
<h1>{title}</h1>
{lede}
{contents}
{blocks}
</main>
</body>
</html>
"""

_STYLE = """
:root {
  color-scheme: light dark;
  --paper: #fff; --ink: #1d2129; --soft: #5b6472; --rule: #dfe3e8; --panel: #f5f6f8; --link: #2457c5;
  --good: #14693a; --good-back: #def3e5; --bad: #9b2415; --bad-back: #fbe5e1;
  --neutral: #4d5663; --neutral-back: #e9ecf0;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #15181d; --ink: #e4e7eb; --soft: #9ea7b3; --rule: #343a43; --panel: #1e2229; --link: #8fb4ff;
    --good: #8fdcae; --good-back: #153a25; --bad: #ffa897; --bad-back: #4a1d16;
    --neutral: #c2c9d2; --neutral-back: #2f353e;
  }
}
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 1rem/1.6 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
main { max-width: 70rem; margin: 0 auto; padding: 2.5rem 1.5rem 4rem; }
h1, h2, h3 { line-height: 1.25; text-wrap: balance; overflow-wrap: anywhere; }
h1 { font-size: 2.1rem; margin: 0 0 .6rem; letter-spacing: -.015em; }
h2 { font-size: 1.4rem; margin: 3rem 0 .8rem; padding-top: 1.2rem; border-top: 1px solid var(--rule); }
h3 { font-size: 1.1rem; margin: 2rem 0 .5rem; }
p { max-width: 44rem; margin: 0 0 1rem; overflow-wrap: anywhere; }
.lede { font-size: 1.15rem; color: var(--soft); }
a { color: var(--link); text-underline-offset: .15em; }
nav ol { columns: 16rem; column-gap: 2rem; margin: 1.5rem 0 0; padding: 1rem 1.2rem; list-style: none;
  background: var(--panel); border-radius: .5rem; font-size: .95rem; }
nav a { text-decoration: none; }
nav a:hover { text-decoration: underline; }
.level-3 { padding-left: 1.2rem; font-size: .9rem; break-before: avoid; }
.numbers { display: grid; grid-template-columns: repeat(auto-fit, minmax(9rem, 1fr)); gap: .75rem; margin: 1.5rem 0; }
.numbers div { display: flex; flex-direction: column; padding: .8rem 1rem;
  background: var(--panel); border-radius: .5rem; }
.numbers dd { margin: 0; font-size: 1.6rem; font-weight: 650; line-height: 1.25; font-variant-numeric: tabular-nums; }
.numbers dt { color: var(--soft); font-size: .85rem; line-height: 1.35; }
figure { margin: 1.8rem 0 2.2rem; }
figure img { display: block; max-width: 100%; height: auto; padding: .5rem; background: #fff;
  border: 1px solid var(--rule); border-radius: .5rem; }
figcaption { max-width: 48rem; margin-top: .6rem; color: var(--soft); font-size: .9rem; line-height: 1.45; }
figcaption b { color: var(--ink); }
.table figcaption { margin: 0 0 .5rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .9rem; line-height: 1.4; border-bottom: 1px solid var(--rule); }
th, td { padding: .4rem .8rem; text-align: left; vertical-align: top; border-top: 1px solid var(--rule); }
thead th { vertical-align: bottom; color: var(--soft); font-weight: 600; }
thead .group { text-align: center; border-bottom: 0; }
tbody th { font-weight: 500; white-space: nowrap; }
tbody tr:hover { background: var(--panel); }
.num { text-align: right; white-space: nowrap; font-variant-numeric: tabular-nums; }
.long { min-width: 17rem; }
.badge { display: inline-block; padding: .05rem .55rem; border-radius: 1rem; font-size: .82rem; font-weight: 600;
  white-space: nowrap; }
.good { color: var(--good); background: var(--good-back); }
.bad { color: var(--bad); background: var(--bad-back); }
.neutral { color: var(--neutral); background: var(--neutral-back); }
pre { overflow-x: auto; padding: .9rem 1.1rem; background: var(--panel); border-radius: .5rem; font-size: .87rem;
  line-height: 1.5; }
code { font-family: ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", monospace; }
@media (max-width: 40rem) {
  main { padding: 1.5rem 1rem 3rem; }
  h1 { font-size: 1.6rem; }
  figure img { padding: .2rem; }
}
@media print {
  :root { --paper: #fff; --ink: #000; --soft: #444; --rule: #bbb; --panel: #f4f4f4; --link: #000; color-scheme: light; }
  body { font-size: 10pt; }
  main { max-width: none; padding: 0; }
  nav { display: none; }
  .scroll { overflow: visible; }
  h2, h3, .table figcaption { break-after: avoid; }
  figure:not(.table), tr, .numbers { break-inside: avoid; }
  thead { display: table-header-group; }
  pre { white-space: pre-wrap; }
}
"""
