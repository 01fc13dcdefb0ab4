"""What a store holds, as `probekit.info` tells it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from probekit._probe.site_tree import site_tree
from probekit._sizes import format_size
from probekit._store.layout import Json
from probekit._table import ShownAsTable, Table
from probekit.errors import plain

__all__ = ["SiteInfo", "StoreInfo"]

SHOWN_CLASSES = 20
_KEPT = ("reduce", "mask", "node_dim")
_IN_WORDS_ELSEWHERE = ("preprocessing_steps",)  # attributes that another one tells, too


@dataclass(frozen=True)
class SiteInfo:
    """One site of a store: `dims`, `shape` and `chunk` shape of its activation, and its bytes on disk.

    `kept` says what is kept of the model's activation, by option: `reduce`, `mask`, and `node_dim` with what it is
    known by. An option that a store of an earlier version doesn't say is left out.
    """

    name: str
    type: str
    dims: tuple[str, ...]
    shape: tuple[int, ...]
    dtype: str
    chunk: tuple[int, ...]
    bytes: int
    kept: dict[str, str]


@dataclass(frozen=True, repr=False)
class StoreInfo(ShownAsTable):
    """The contents of a store: its samples, sites, samples of each class, and how it was made (`attrs`).

    It prints as the table of its sites, and shows itself in a notebook with all of it. `accuracy` is the share of
    samples whose label the model predicted, where the store knows both.
    """

    path: str
    rows: int
    complete: bool
    sites: tuple[SiteInfo, ...]
    classes: dict[str, int]
    attrs: Json
    accuracy: float | None

    @property
    def title(self) -> str:
        expected = self.attrs.get("expected_rows", "?")
        state = "complete" if self.complete else f"of {expected}: not complete"
        return f"{self.path}: {self.rows} samples, {state}, {format_size(sum(site.bytes for site in self.sites))}"

    @property
    def table(self) -> Table:
        """A row for each site."""
        columns = ("site", "type", "dims", "shape", "dtype", "chunk", "on disk")
        return Table(self.title, columns, [(site.name, *_facts(site)) for site in self.sites])

    @property
    def class_table(self) -> Table:
        """The samples of each class, of many the first, and of the others together."""
        counts = list(self.classes.items())
        more = counts[SHOWN_CLASSES:]
        rest = [(f"{len(more)} more", sum(count for _, count in more))] if more else []
        return Table("Samples of each class", ("class", "samples"), counts[:SHOWN_CLASSES] + rest)

    @property
    def capture_table(self) -> Table:
        """The accuracy, what is kept of the sites, and the store's attributes."""
        known = {} if self.accuracy is None else {"accuracy": f"{self.accuracy:.2%}"}
        kept = {name: value for name in _KEPT if (value := _by_site(self.sites, name))}
        told = {key: value for key, value in self.attrs.items() if key not in _IN_WORDS_ELSEWHERE}
        return Table("How it was captured", ("", ""), list((known | kept | told).items()))

    def _repr_html_(self) -> str:
        sites = site_tree((site.name, _facts(site)) for site in self.sites)
        tables = [self.class_table, self.capture_table] if self.classes else [self.capture_table]
        return "\n".join([f"<p>{escape(plain(self.title))}</p>", sites, *(table.folded() for table in tables)])


def _facts(site: SiteInfo) -> tuple[str, ...]:
    dims, shape, chunk = ", ".join(site.dims), _times(site.shape), _times(site.chunk)
    return site.type, dims, shape, site.dtype, chunk, format_size(site.bytes)


def _times(shape: Sequence[int]) -> str:
    return "×".join(map(str, shape))


def _by_site(sites: Sequence[SiteInfo], option: str) -> str:
    """What was kept of each site; where the sites differ, how many it holds for."""
    counts = Counter(site.kept[option] for site in sites if option in site.kept)
    return "; ".join(f"{value} ({count} sites)" if len(counts) > 1 else value for value, count in counts.items())
