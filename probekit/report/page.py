"""One self-contained HTML page from text, figures and tables: images inlined, no address to fetch.

A page with tables or an explorer has scripts. Its policy names them by their hashes, so that a browser runs no others.
"""

from __future__ import annotations

import base64
import hashlib
import io
import os
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, Self, TypeAlias

import pandas as pd
import xarray as xr
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL.PngImagePlugin import PngImageFile

from probekit._files import local_path, whole_file
from probekit._measure.top_samples import TopSample
from probekit._table import shown
from probekit._version import __version__
from probekit.errors import DataError, ProbekitError, check_choice, check_kind
from probekit.plot import Drawing
from probekit.report.samples import shown_samples
from probekit.report.tables import TONES, Tabular, cells_of
from probekit.report.written import GENERATOR

__all__ = ["Outcome", "Page", "Picture"]

Picture: TypeAlias = str | os.PathLike[str] | Drawing | Figure | Axes

_MEDIA = {".png": "image/png", ".svg": "image/svg+xml", ".jpg": "image/jpeg", ".jpeg": "image/jpeg"}
_DPI = 160  # of figures drawn here
_EXPLORER = ("explorer-results", "explorer-charts", "explorer-tables", "explorer")  # scripts, each for those after it
_CSS_PER_INCH = 100  # every picture is shown at one scale, so that type has one size throughout the page

_TEMPLATES = Environment(
    loader=PackageLoader("probekit.report"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_TEMPLATES.policies["json.dumps_kwargs"] = {}  # in the order given: a chart's parts refer to those before them


@dataclass(frozen=True)
class Outcome:
    """What a recipe's ``run`` returns: its report, and the tables that are worth printing, by title."""

    report: Path
    tables: Mapping[str, pd.DataFrame]


class Page:
    """A page under construction: each method adds a block at the end and returns the page.

    All text is taken literally, never as HTML. Figures and tables are numbered in the order in which they are added,
    and the headings make a table of contents.

    >>> page = Page("Digits", "What 200 units do.").heading("Sparsity")
    >>> page = page.table([{"layer": "relu1", "inactive": 0.804}], "By layer.", formats={"inactive": ".1%"})
    >>> "80.4%" in page.html()
    True
    """

    def __init__(self, title: str, lede: str = "") -> None:
        self.title, self.lede = title, lede
        self._blocks: list[tuple[str, dict[str, Any]]] = []  # macros of templates/blocks.html, and their arguments

    def heading(self, text: str, level: int = 2) -> Self:
        """A heading: `level` 2 for a section, 3 within one."""
        check_kind("level", level, int, "2 or 3")
        if level not in (2, 3):
            raise DataError(f"A heading has level 2 or 3 (1 is the title), not {level}.")
        return self._add("heading", level=level, number=self._next("heading"), text=text)

    def text(self, paragraph: str) -> Self:
        """A paragraph; a blank line in it begins another."""
        check_kind("paragraph", paragraph, str, "a text")
        parts = [part.strip() for part in paragraph.split("\n\n")]
        return self._add("text", paragraphs=[part for part in parts if part])

    def figures(self, pictures: Mapping[str, Picture]) -> Self:
        """Numbered figures by their captions, side by side where there is room; see `figure`."""
        check_kind("pictures", pictures, Mapping, "the pictures by their captions, {caption: picture}")
        if not pictures:
            return self
        first = self._next_figure()
        made = [_shown_figure(picture, caption, None) for caption, picture in pictures.items()]
        return self._add("figures", figures=[{**each, "number": first + at} for at, each in enumerate(made)])

    def node(self, title: str, text: str, picture: Picture | None, samples: Sequence[TopSample]) -> Self:
        """A node under its title, with a text: a picture such as its distributions, and the samples that it answers to.

        `samples` are those of ``pk.top(…).samples(…)``. Images become thumbnails in the page, and in texts the token is
        marked. A sample of which neither is known is named.
        """
        return self._add(
            "node",
            title=title,
            text=text,
            picture=None if picture is None else _shown_figure(picture, title, None),
            samples=shown_samples(samples),
        )

    def points(self, texts: Sequence[str], tone: str | None = None, *, folded: str = "") -> Self:
        """A list of short texts; a `tone`, "good", "bad" or "neutral", sets it off, as for warnings.

        What is `folded` under a title is shown when a reader asks for it.

        >>> "<li>Few samples.</li>" in Page("Digits").points(["Few samples."], "bad").html()
        True
        """
        check_kind("texts", texts, (list, tuple), "a list of texts")
        check_choice("tone", tone, (None, *TONES))
        check_kind("folded", folded, str, "a title, or nothing")
        return self._add("points", texts=list(map(str, texts)), tone=tone, folded=folded)

    def facts(self, values: Mapping[str, object]) -> Self:
        """Names with what is known of each, one below the other.

        >>> "<dd>digits</dd>" in Page("Digits").facts({"data": "digits"}).html()
        True
        """
        check_kind("values", values, Mapping, "what is known by name, {name: value}")
        return self._add("facts", values=[(str(name), shown(value)) for name, value in values.items()])

    def numbers(self, values: Mapping[str, object]) -> Self:
        """The few numbers that matter most, each large above its name."""
        check_kind("values", values, Mapping, "the numbers by name, {name: number}")
        return self._add("numbers", values=[(name, shown(value)) for name, value in values.items()])

    def code(self, text: str, *, folded: str = "") -> Self:
        """Commands or code, with its line breaks; what is `folded` under a title is shown when a reader asks for it."""
        check_kind("text", text, str, "a text")
        check_kind("folded", folded, str, "a title, or nothing")
        return self._add("code", text=text.strip("\n"), folded=folded)

    def figure(self, picture: Picture, caption: str, alt: str | None = None) -> Self:
        """A numbered figure: a PNG, JPEG or SVG file, or what `probekit.plot` returned, copied into the page now.

        `alt` says in words what the picture shows, for readers who don't see it; without it, they get the caption.
        Raises DataError for a file that isn't there or isn't a picture of these kinds.
        """
        return self._add("figure", **_shown_figure(picture, caption, alt), number=self._next_figure())

    def table(
        self,
        data: Tabular,
        caption: str,
        *,
        formats: Mapping[Hashable, str] | str = "",
        badges: Mapping[str, str] | None = None,
    ) -> Self:
        """A numbered table of a DataFrame, a DataArray, a Dataset, or rows as mappings; wide ones scroll.

        A click on a heading sorts it, and one of ten rows or more has a filter: a text that a row has, or a comparison
        such as ``overlap < 0.5``; several are separated by commas.

        `formats` gives the numbers' format specification: one for all columns except integers, or one for each column
        by name (if the columns have several levels: by the tuple, or by the last level). Numbers without one show four
        digits, missing values a dash. `badges` marks cells that hold exactly one of its keys in a tone: "good", "bad"
        or "neutral".

        >>> page = Page("Claims").table(
        ...     [{"claim": "deeper is sparser", "status": "not_held"}], "Claims.", badges={"not_held": "bad"}
        ... )
        >>> '<span class="badge bad">not held</span>' in page.html()
        True
        """
        return self._add(
            "table", number=self._next("table"), caption=caption, cells=cells_of(data, formats, badges or {})
        )

    def explorer(self, measured: xr.DataTree) -> Self:
        """A part in which a reader chooses site, node and classes, and sees their results; a page has one at most.

        It shows the classes' distributions at the node (if the metric `histogram` was measured), every variable over
        all nodes of the site, by class and by pair of classes, and a table of all nodes, which sorts and filters. Where
        the results don't fit into 8 MB, each site has as many of its most selective nodes as do, and a text says so.

        Args:
            measured: what `probekit.measure` or `probekit.measure_live` gave; of results at several steps, it shows the
                last.

        Raises:
            DataError: no site has numbers for its nodes, or the page has an explorer already.
        """
        from probekit.report.explorer import explorer_of  # which imports Bokeh

        if self._next("explorer") > 1:
            raise DataError("The page has an explorer already: it holds one. Write another page for other results.")
        found = explorer_of(measured)
        if found.shown < found.total:
            self.text(
                f"The explorer holds {found.shown:,} of {found.total:,} nodes, so that the page stays small: at each "
                "site those that stand out most. With fewer sites there is room for more of their nodes."
            )
        return self._add("explorer", data=found.data)

    def html(self) -> str:
        """The whole page as a string."""
        headings = [fields for kind, fields in self._blocks if kind == "heading"]
        template = _TEMPLATES.get_template("page.html")
        has_explorer = self._next("explorer") > 1
        scripts = _scripts(explorer=has_explorer) if has_explorer or self._next("table") > 1 else []
        return template.render(
            generator=f"{GENERATOR} {__version__}",
            title=self.title,
            lede=self.lede,
            headings=headings,
            blocks=self._blocks,
            scripts=scripts,
            has_explorer=has_explorer,
            allowed=f"; script-src {' '.join(map(_hash, scripts))}" if scripts else "",
        )

    def write(self, path: str | os.PathLike[str]) -> Path:
        """Write the page and return its path; if that fails, the page that was there before stays as it was.

        Makes missing folders. Raises ProbekitError where the disk refuses.
        """
        target = local_path(path, "path")
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with whole_file(target) as file:
                # A file name that isn't valid UTF-8 may reach a caption; it must not cost the page.
                file.write(self.html().encode("utf-8", "xmlcharrefreplace"))
        except OSError as error:
            raise ProbekitError(f"The report can't be written to {target}: {error.strerror or error}.") from error
        return target

    def _add(self, kind: str, **fields: object) -> Self:
        self._blocks.append((kind, fields))
        return self

    def _next_figure(self) -> int:
        """The number of the next figure, wherever those before it stand."""
        return self._next("figure") + sum(len(fields["figures"]) for kind, fields in self._blocks if kind == "figures")

    def _next(self, kind: str) -> int:
        """The number of the next block of a kind."""
        return 1 + sum(each == kind for each, _ in self._blocks)


def _shown_figure(picture: Picture, caption: str, alt: str | None) -> dict[str, Any]:
    """What the page shows of a figure, but its number."""
    media, data = _picture(picture)
    return {
        "caption": caption,
        "alt": alt or caption,
        "source": f"data:{media};base64,{base64.b64encode(data).decode('ascii')}",
        "size": _png_size(picture, data) if media == _MEDIA[".png"] else None,
    }


def _scripts(*, explorer: bool) -> list[Markup]:
    """The scripts of a page with tables, and those of an explorer: the charting library, then ours."""
    texts = [_script("tables")]
    if explorer:
        from bokeh.resources import Resources

        texts += [Resources(mode="inline", components=["bokeh"]).js_raw[0], *map(_script, _EXPLORER)]
    # A browser drops carriage returns before it compares the hash.
    return [Markup(text.replace("\r\n", "\n")) for text in texts]


def _script(name: str) -> str:
    return files("probekit.report").joinpath(f"templates/{name}.js").read_text("utf-8")


def _hash(script: str) -> str:
    """By which a policy names a script."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"


def _picture(picture: Picture) -> tuple[str, bytes]:
    """Media type and bytes of a picture."""
    if isinstance(picture, Drawing | Figure | Axes):
        file = io.BytesIO()
        picture.figure.canvas.figure.savefig(file, format="png", dpi=_DPI, facecolor="white")
        return _MEDIA[".png"], file.getvalue()
    check_kind("picture", picture, (str, os.PathLike), "the path of a picture, a Drawing, a Figure or Axes")
    path = local_path(picture, "picture")
    if path.suffix.lower() not in _MEDIA:
        raise DataError(f"{path} isn't a picture that a page can hold: give a {', '.join(_MEDIA)} file or a figure.")
    try:
        return _MEDIA[path.suffix.lower()], path.read_bytes()
    except OSError as error:
        raise DataError(f"The picture {path} can't be read: {error.strerror or error}.") from error


def _png_size(picture: Picture, data: bytes) -> tuple[int, int]:
    """The width and height at which to show a PNG, from its pixels and its resolution if it states one."""
    try:
        # Reads the header alone; Image.open would refuse very large pictures, which are no harm here.
        png = PngImageFile(io.BytesIO(data))
    except (OSError, SyntaxError) as error:
        raise DataError(f"{picture} isn't a PNG, whatever its name says. Was it written to its end?") from error
    dpi = png.info.get("dpi", (0, 0))[0]
    scale = _CSS_PER_INCH / dpi if dpi else 1.0
    return round(png.width * scale), round(png.height * scale)
