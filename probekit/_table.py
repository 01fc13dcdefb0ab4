"""One small table: it prints, shows itself in HTML, and becomes a DataFrame. How a reader sees a single value."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from html import escape
from numbers import Integral, Real
from typing import TYPE_CHECKING, TypeGuard

from probekit._sizes import Size
from probekit.errors import plain

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["MISSING", "ShownAsTable", "Table", "is_missing", "is_number", "rows_of", "shown"]

MISSING = "–"


def is_missing(value: object) -> bool:
    """Whether a value is None or not a number."""
    return value is None or (isinstance(value, Real) and value != value)


def is_number(value: object) -> TypeGuard[Real]:
    """Whether a value is a real number; True and False are not."""
    return isinstance(value, Real) and not isinstance(value, bool)


def shown(value: object, spec: str = "") -> str:
    """A value as a reader wants it: numbers by their format or to four digits, a dash for what is missing.

    >>> shown(0.123456), shown(1797), shown(None), shown((3, 224))
    ('0.1235', '1797', '–', '3, 224')
    """
    if is_missing(value):
        return MISSING
    if is_number(value) and not isinstance(value, Size):
        return format(value, spec or ("" if isinstance(value, Integral) else ".4g"))
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def rows_of(frame: pd.DataFrame) -> list[list[object]]:
    """The values of a frame; every kind of missing value that pandas has becomes None."""
    values = frame.to_numpy(dtype=object, na_value=None)  # type: ignore[arg-type]  # the stub doesn't know None
    rows: list[list[object]] = values.tolist()
    return rows


@dataclass(frozen=True, repr=False)
class Table:
    """Rows of values under named columns; it prints under its title, and shows itself in a notebook.

    >>> Table("Two sites", ("site", "sparsity"), [("relu1", 0.80413), ("(root)", None)])
    Two sites
      site sparsity
     relu1   0.8041
    (root)        –
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[object]]

    @classmethod
    def from_dataframe(cls, title: str, frame: pd.DataFrame) -> Table:
        """The columns of `frame`, without its index; names of several levels are joined."""
        return cls(title, list(map(_column_name, frame.columns)), rows_of(frame))

    def to_dataframe(self) -> pd.DataFrame:
        import pandas as pd

        return pd.DataFrame(list(self.rows), columns=list(self.columns))

    def shown_rows(self) -> list[list[str]]:
        """The text of every cell."""
        return [[plain(shown(value)) for value in row] for row in self.rows]

    def width(self, between: int = 1) -> int:
        """The characters of a line, with so many `between` two columns."""
        columns = zip(map(plain, self.columns), *self.shown_rows(), strict=True)
        return sum(max(map(len, texts)) + between for texts in columns) + 1

    def __repr__(self) -> str:
        rows = self.shown_rows()
        if not rows:
            return plain(self.title)
        texts, values = zip(map(plain, self.columns), *rows, strict=True), zip(*self.rows, strict=True)
        columns = map(_right_aligned, texts, values)
        return "\n".join([plain(self.title), *map(" ".join, zip(*columns, strict=True))])

    def _repr_html_(self) -> str:
        return f"<p>{escape(plain(self.title))}</p>\n{self._html_table()}"

    def folded(self) -> str:
        """The same in HTML, folded under its title."""
        return f"<details><summary>{escape(plain(self.title))}</summary>\n{self._html_table()}\n</details>"

    def _html_table(self) -> str:
        body = "\n".join(_html_row(cells, "td") for cells in self.shown_rows())
        return (
            # The class by which notebooks know a table of pandas.
            f'<table border="1" class="dataframe">\n'
            f"<thead>\n{_html_row(list(map(plain, self.columns)), 'th')}\n</thead>\n"
            f"<tbody>\n{body}\n</tbody>\n"
            "</table>"
        )


class ShownAsTable:
    """What prints as its table, also in a notebook."""

    @property
    @abstractmethod
    def table(self) -> Table:
        """The table."""

    def to_dataframe(self) -> pd.DataFrame:
        return self.table.to_dataframe()

    def __repr__(self) -> str:
        return str(self.table)

    def _repr_html_(self) -> str:
        return self.table._repr_html_()


def _column_name(name: Hashable) -> str:
    return " ".join(str(level) for level in name if level != "") if isinstance(name, tuple) else str(name)


def _right_aligned(texts: Sequence[str], values: Sequence[object]) -> list[str]:
    """A column's lines, one space wider for numbers, as pandas prints them."""
    width = max(map(len, texts)) + all(map(is_number, values))
    return [text.rjust(width) for text in texts]


def _html_row(cells: Sequence[str], tag: str) -> str:
    return f"<tr>{''.join(f'<{tag}>{escape(cell)}</{tag}>' for cell in cells)}</tr>"
