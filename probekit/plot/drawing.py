"""What a function of `probekit.plot` returns: a figure that shows itself in a notebook, and saves itself."""

from __future__ import annotations

import base64
import io
import os
from dataclasses import dataclass
from html import escape
from numbers import Real
from pathlib import Path
from typing import IO, Any, Self

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from probekit._files import local_path, whole_file
from probekit.errors import DataError, ProbekitError, check_kind

__all__ = ["Drawing", "Drawings"]

_DPI = 150  # of a saved PNG
_CSS_PER_INCH = 96  # at which a notebook shows what it has twice as many pixels of


@dataclass(frozen=True, eq=False, repr=False)
class Drawing:
    """A figure that shows itself in a notebook: its `figure`, and the `axes` of its panels.

    `axes` is a tuple of the panels from left to right and top to bottom, also where there is one; colour bars aren't
    among them. What was drawn on ``ax=`` has the one panel `ax`, in the figure that it belongs to. A figure that pyplot
    made is shown by pyplot, so that a notebook doesn't show it twice.

    >>> import xarray as xr, probekit as pk
    >>> tree = xr.DataTree.from_dict({name: xr.Dataset({"sparsity_site": 0.5}) for name in ("relu1", "relu2")})
    >>> drawing = pk.plot.profile(tree, "sparsity_site")
    >>> drawing
    <Drawing: 1 panel, 6.4 × 3.6 inches>
    >>> _ = drawing.axes[0].set_title("inactive")
    """

    figure: Figure
    axes: tuple[Axes, ...]

    @classmethod
    def of(cls, *panels: Axes) -> Self:
        """The drawing of these panels, which belong to one figure."""
        return cls(panels[0].figure.canvas.figure, panels)  # the whole one, also of a panel in a subfigure

    def save(self, path: str | os.PathLike[str], *, dpi: float = _DPI) -> Path:
        """Write the figure as the kind of file that the suffix of `path` names, such as ``.png``, and return its path.

        `dpi` is the resolution of pixels, also of what an SVG or a PDF holds as pixels. Makes missing folders; the file
        appears whole. Raises DataError for a suffix that matplotlib can't write, ProbekitError where the disk refuses.
        """
        target = local_path(path, "path")
        known = self.figure.canvas.get_supported_filetypes()
        suffix = target.suffix.lower().removeprefix(".")
        if suffix not in known:
            kinds = ", ".join(f".{each}" for each in known)
            raise DataError(
                f"{target} doesn't say by its suffix what to write; it may be {kinds}.", arguments=("path",)
            )
        check_kind("dpi", dpi, Real, "a resolution in dots per inch, such as 150")
        if not dpi > 0:
            raise DataError(f"dpi is {dpi}; it has to be more than 0.", arguments=("dpi",))
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with whole_file(target) as file:
                self._write(file, suffix, dpi)
        except OSError as error:
            raise ProbekitError(f"The figure can't be written to {target}: {error.strerror or error}.") from error
        return target

    def _write(self, file: IO[bytes], kind: str, dpi: float) -> None:
        # Without a layout, a legend beside the panels would be cut off.
        fitted = None if self.figure.get_layout_engine() else "tight"
        self.figure.savefig(file, format=kind, dpi=dpi, bbox_inches=fitted)

    def _repr_png_(self) -> tuple[bytes, dict[str, Any]] | None:
        if self.figure.canvas.manager is not None:
            return None  # pyplot's
        return self._pixels()

    def _pixels(self) -> tuple[bytes, dict[str, Any]]:
        """A PNG, and how wide a notebook shows it."""
        file = io.BytesIO()
        self._write(file, "png", 2 * _CSS_PER_INCH)
        return file.getvalue(), {"width": round(self.figure.get_figwidth() * _CSS_PER_INCH)}

    def _inlined(self) -> str:
        """An image in HTML that needs no file."""
        png, shown = self._pixels()
        return f'<img width="{shown["width"]}" src="data:image/png;base64,{base64.b64encode(png).decode()}">'

    def __repr__(self) -> str:
        width, height = self.figure.get_size_inches()
        panels = f"{len(self.axes)} panel{'s' if len(self.axes) > 1 else ''}"
        return f"<Drawing: {panels}, {width:.3g} × {height:.3g} inches>"


class Drawings(dict[str, Drawing]):
    """Drawings by name, in order: a dict that shows all of them in a notebook.

    >>> import xarray as xr, probekit as pk
    >>> tree = xr.DataTree.from_dict({name: xr.Dataset({"mean": ("node", [0.5])}) for name in ("relu1", "relu2")})
    >>> Drawings(profile=pk.plot.profile(tree, "mean"))
    {'profile': <Drawing: 1 panel, 6.4 × 3.6 inches>}
    """

    def _repr_html_(self) -> str:
        return "\n".join(f"<p><b>{escape(name)}</b></p>\n{drawing._inlined()}" for name, drawing in self.items())
