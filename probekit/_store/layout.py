"""The store's layout: the names of its groups and arrays, their chunks, and the keys of these."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np

from probekit.errors import StoreError

__all__ = [
    "ACTIVATION",
    "CHECKSUM_BYTES",
    "CLASS_NAME",
    "CLASS_NAMES",
    "FORMAT",
    "FRAGMENTS",
    "INPUTS",
    "MARKERS",
    "MASK",
    "MAX_RECORD_BYTES",
    "POSITION",
    "RECORD",
    "ROW",
    "SAMPLE",
    "SAMPLES",
    "TEXTS",
    "TOKEN_COLUMNS",
    "ArraySpec",
    "Index",
    "Json",
    "Layout",
    "SiteSpec",
    "check_columns",
    "chunk_key",
    "columns_of",
    "group_names",
]

FORMAT = 2  # that new stores have; docs/store.md says how 1 differs
RECORD = "zarr.json"
MAX_RECORD_BYTES = 2**27  # some 80,000 sites, or 2**24 chunks
CHECKSUM_BYTES = 4  # crc32c, little-endian, at the end of each chunk
ACTIVATION = "activation"
POSITION = "position"
MASK = "mask"  # beside an activation with positions: which of them are real tokens
# What is known of the tokens of a site whose rows are tokens, beside the position.
TOKEN_COLUMNS = {
    "token_id": np.dtype(np.int64),
    "token": np.dtype(np.str_),
    "char_start": np.dtype(np.int64),
    "char_end": np.dtype(np.int64),
    "generated": np.dtype(bool),
}
TEXTS = ("text", "prompt", "answer")  # columns of the samples that aren't repeated for each of their tokens
INPUTS = "inputs_crc32c"  # of the inputs of the batch that each sample came in
SAMPLE, ROW = "sample", "row"
SAMPLES = ""  # among the row dimensions, by the side of the sites that have one of their own
CHUNK_BYTES, CHUNK_BYTES_PER_ROW = 4 * 2**20, 1024  # of a chunk, or of each of its rows where that makes more
MARKERS = ".done"  # the folder where each of several processes marks the chunk rows that it has written
FRAGMENTS = f"{MARKERS}/fragments"  # rows of token chunks that are in the chunk rows of several processes
CLASS_NAME = "class_name"
CLASS_NAMES = 1024  # in a chunk of class names
ROOT_VARIABLES = ("label", "sample_id", CLASS_NAME, INPUTS)  # no site's group may be called like one
MAX_NAME_BYTES = 200

Json: TypeAlias = dict[str, Any]
Index: TypeAlias = tuple[slice, ...]


@dataclass(frozen=True)
class SiteSpec:
    """One site of a store: its name, the dims and the shape of one row, the dtype on disk, attributes.

    A row is a sample or, with `tokens`, one token of a sample; then the site's rows have a length of their own. With
    `masked`, a mask beside the activation tells which positions are real tokens. `token_columns` names what is known
    of its tokens beside their positions.
    """

    name: str
    dims: tuple[str, ...]
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    attrs: Mapping[str, Any] = field(default_factory=dict)
    tokens: bool = False
    compression: str | None = None
    masked: bool = False
    token_columns: tuple[str, ...] = ()

    @property
    def bytes_per_row(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize + (self.positions if self.masked else 0)

    @property
    def positions(self) -> int:
        """Values that a row has of a node."""
        return math.prod(self.shape) // max(1, self.shape[node_axis(self.dims)]) if self.shape else 1

    @property
    def row_dim(self) -> str:
        return ROW if self.tokens else SAMPLE


@dataclass(frozen=True)
class ArraySpec:
    """One array of a store: its path, its dims, the shape of a row, the dtype and the shape of a chunk, rows first."""

    path: str
    dims: tuple[str, ...]
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    chunk: tuple[int, ...]
    compression: str | None = None

    @cached_property
    def split(self) -> tuple[int, int] | None:
        """The axis along which chunks split the nodes, and into how many; None where a chunk has them all."""
        for axis, (length, part) in enumerate(zip(self.shape, self.chunk[1:], strict=True)):
            if length > part:
                return axis, math.ceil(length / part)
        return None

    @property
    def across(self) -> int:
        """Chunks in a chunk row."""
        return self.split[1] if self.split else 1

    @cached_property
    def node_spans(self) -> list[tuple[Index, Index]]:
        """For each chunk of a chunk row: which nodes of (row, ...) it holds, all for ``()``, and where in the chunk."""
        if self.split is None:
            return [((), tuple(map(slice, self.shape)))]  # a site without nodes has chunks of one
        axis, width = self.split[0], self.chunk[1 + self.split[0]]
        before = (slice(None),) * axis
        starts = range(0, self.shape[axis], width)
        spans = [slice(start, min(start + width, self.shape[axis])) for start in starts]
        return [((slice(None), *before, span), (*before, slice(span.stop - span.start))) for span in spans]

    def key(self, row: int, across: int) -> str:
        """The path of the chunk in the chunk row `row`, `across` chunks from the first."""
        index = [0] * len(self.shape)
        if self.split:
            index[self.split[0]] = across
        return chunk_key(self.path, (row, *index))

    def number(self, index: Sequence[int]) -> int:
        """The number of a chunk, by its index along each axis, counted row by row."""
        return index[0] * self.across + (index[1 + self.split[0]] if self.split else 0)


@dataclass(frozen=True)
class Layout:
    """The arrays of a store: those of its sites, and the columns of its samples at the root.

    Attributes:
        rows_per_chunk: samples in a chunk.
        tokens_per_chunk: tokens in a chunk, of the sites whose rows are tokens.
        new_columns: whether the samples' columns are arrays of this layout; else they are there already.
        checksums: whether each sample has the checksum of its batch's inputs; stores of earlier versions have none.
        text_once: whether columns of texts aren't repeated for each token, as earlier versions did.
    """

    sites: tuple[SiteSpec, ...]
    columns: Mapping[str, np.dtype[Any]]
    rows_per_chunk: int
    tokens_per_chunk: int
    new_columns: bool = True
    checksums: bool = True
    text_once: bool = True

    def as_in(self, nodes: Collection[str]) -> Layout:
        """The same without what a store of an earlier version, which has these `nodes`, lacks."""
        sites = [self._as_in(site, nodes) if self.groups[site.name] in nodes else site for site in self.sites]
        tokens = [self.groups[site.name] for site in sites if site.tokens]
        once = not any(f"{group}/{text}" in nodes for group in tokens for text in TEXTS)
        return replace(self, sites=tuple(sites), checksums=INPUTS in nodes, text_once=once)

    def _as_in(self, site: SiteSpec, nodes: Collection[str]) -> SiteSpec:
        known = [name for name in site.token_columns if f"{self.groups[site.name]}/{name}" in nodes]
        return replace(site, masked=site.masked and self.mask(site).path in nodes, token_columns=tuple(known))

    @cached_property
    def groups(self) -> dict[str, str]:
        return group_names([site.name for site in self.sites], self.columns)

    def activation(self, site: SiteSpec) -> ArraySpec:
        rows = self.tokens_per_chunk if site.tokens else self.rows_per_chunk
        path = f"{self.groups[site.name]}/{ACTIVATION}"
        chunk = (rows, *chunk_shape(site, rows))
        return ArraySpec(path, (site.row_dim, *site.dims), site.shape, site.dtype, chunk, site.compression)

    def mask(self, site: SiteSpec) -> ArraySpec:
        """The mask beside a site's activation."""
        dims = [dim for dim in site.dims if dim not in ("node", "channel")]
        path, shape = f"{self.groups[site.name]}/{MASK}", (site.positions,)
        return ArraySpec(path, (SAMPLE, *dims), shape, np.dtype(bool), (self.rows_per_chunk, *shape))

    @cached_property
    def arrays(self) -> dict[str, list[ArraySpec]]:
        """The arrays that get longer together, by row dimension.

        The dimensions are `SAMPLES` and, of each site whose rows are tokens, one of its activation and one of its
        columns, which are known when the batch has run; each is called by the path of one of its arrays.
        """
        # zarr finds the arrays of a group in the record only where they stand side by side.
        samples = [
            spec
            for site in self.sites
            if not site.tokens
            for spec in [self.activation(site), *([self.mask(site)] if site.masked else [])]
        ]
        found = {SAMPLES: [*samples, *self.sample_columns.values()]}
        for site in self.sites:
            if site.tokens:
                activation = self.activation(site)
                found |= {activation.path: [activation], columns_of(activation.path): self.token_columns(site)}
        return found

    def rows_in_chunk(self, dim: str) -> int:
        """Rows in a chunk of a row dimension."""
        return self.rows_per_chunk if dim == SAMPLES else self.tokens_per_chunk

    @cached_property
    def sample_columns(self) -> dict[str, ArraySpec]:
        """The columns of the samples, at the root, by name."""
        checksums = {INPUTS: np.dtype(np.int64)} if self.checksums else {}
        columns = {**self.columns, **checksums} if self.new_columns else {}
        return {name: self._column(name, dtype, SAMPLE, self.rows_per_chunk) for name, dtype in columns.items()}

    def token_columns(self, site: SiteSpec) -> list[ArraySpec]:
        """The columns of a token site's rows, in its group: its sample's columns, its position, what it is."""
        known = {name: TOKEN_COLUMNS[name] for name in site.token_columns}
        columns = {**self.repeated, POSITION: np.dtype(np.int64), **known}
        group = self.groups[site.name]
        return [self._column(f"{group}/{name}", dtype, ROW, self.tokens_per_chunk) for name, dtype in columns.items()]

    @cached_property
    def repeated(self) -> dict[str, np.dtype[Any]]:
        """The samples' columns that each token has too."""
        return {name: dtype for name, dtype in self.columns.items() if name not in TEXTS or not self.text_once}

    def _column(self, path: str, dtype: np.dtype[Any], dim: str, rows: int) -> ArraySpec:
        return ArraySpec(path, (dim,), (), dtype, (rows,))


def chunk_key(path: str, index: Iterable[int]) -> str:
    """The key of a chunk of the array at `path`, by its index along each axis; within its folder for an empty path."""
    return "/".join([*([path] if path else []), "c", *map(str, index)])


def columns_of(activation: str) -> str:
    """The row dimension of the columns beside a token site's activation, both called by the paths of arrays."""
    return f"{activation.rpartition('/')[0]}/{POSITION}"


def group_names(sites: Sequence[str], columns: Iterable[str] = ()) -> dict[str, str]:
    """The name of each site's group: the site's own, with what a path or a root variable could mistake encoded.

    Raises:
        StoreError: two names differ in case only, which some file systems can't keep apart.
    """
    reserved = {*ROOT_VARIABLES, *columns, RECORD}
    groups = {site: _encode(site, reserved) for site in sites}
    owner: dict[str, str] = {}
    for site, group in groups.items():
        other = owner.setdefault(group.casefold(), site)
        if other != site:
            raise StoreError(f"The sites {other!r} and {site!r} differ in case only; capture them into two stores.")
    return groups


def check_columns(columns: Iterable[str]) -> None:
    """Raise StoreError for a column whose name can't be a variable of the root."""
    for name in columns:
        if not name.isidentifier() or name in (CLASS_NAME, INPUTS, MASK, POSITION, ACTIVATION, SAMPLE, ROW):
            raise StoreError(f"A column can't be called {name!r}: name it like a Python variable, such as 'split'.")


def _encode(site: str, reserved_names: Collection[str]) -> str:
    text = re.sub(r"[/\\%\x00-\x1f\x7f]", lambda found: _percent(found[0]), site)
    reserved = text.startswith("__") or not text.strip(".") or text in reserved_names
    text = _percent(text[0]) + text[1:] if reserved and text else text
    if len(text.encode()) <= MAX_NAME_BYTES:
        return text
    digest = hashlib.sha256(site.encode()).hexdigest()[:32]
    return f"{text.encode()[:160].decode(errors='ignore')}%{digest}"


def _percent(character: str) -> str:
    return "".join(f"%{byte:02X}" for byte in character.encode())


def chunk_shape(spec: SiteSpec, rows: int) -> tuple[int, ...]:
    """The shape of a chunk after its `rows`: as many nodes as make a few MB; other axes whole.

    The node is the last axis, or the channel of a feature map, as `dims` say.
    """
    if not spec.shape:
        return ()
    axis = node_axis(spec.dims)
    node_bytes = max(1, rows * spec.bytes_per_row // max(1, spec.shape[axis]))
    shape = [max(1, length) for length in spec.shape]
    columns = math.ceil(shape[axis] / max(1, max(CHUNK_BYTES, rows * CHUNK_BYTES_PER_ROW) // node_bytes))
    shape[axis] = math.ceil(shape[axis] / columns)  # even ones, so that threads have equal work
    return tuple(shape)


def node_axis(dims: Sequence[str]) -> int:
    """Which of a row's axes counts the nodes: ``channel`` where there is one, else the last."""
    return dims.index("channel") if "channel" in dims else len(dims) - 1
