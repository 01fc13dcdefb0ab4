"""The commit record: what a store has committed, as one value, and the metadata of its nodes.

Rows become real when the root ``zarr.json`` is replaced: it carries the metadata of every array inline, with the
committed lengths as their shapes. Readers see exactly that prefix, whenever the writer stops. docs/store.md has the
specification.
"""

from __future__ import annotations

import base64
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TypeAlias

import google_crc32c
import numpy as np

from probekit._store.codec import ChunkCodec
from probekit._store.layout import CHECKSUM_BYTES, CLASS_NAME, CLASS_NAMES, FORMAT, SAMPLES, ArraySpec, Json, Layout
from probekit._store.validation import check_record, specs_of

__all__ = [
    "CHUNK_CHECKSUMS",
    "SEAL",
    "Checksums",
    "CommitRecord",
    "check_seal",
    "class_name_chunks",
    "dump",
    "nodes_of",
    "sealed",
]

SEAL = "crc32c"  # of the record, in its consolidated metadata: zarr leaves it out where it writes them anew
CHUNK_CHECKSUMS = "chunk_crc32c"  # beside it
_DEPTH = 2  # of it in the record

Checksums: TypeAlias = Mapping[str, bytes]  # of each array's chunks, by its path; 4 bytes a chunk, row after row

_CLASS_NAMES = ArraySpec(CLASS_NAME, ("label",), (), np.dtype(np.str_), (CLASS_NAMES,))


@dataclass(frozen=True)
class CommitRecord:
    """The committed state of a store.

    Attributes:
        attributes: those of the root group: how the store was made, and how much of it is committed.
        nodes: the metadata of all other nodes by their paths, arrays at their committed lengths.
        checksums: those of the chunks that the record vouches for: of whole chunk rows and, once the store is complete,
            of all. Zeros stand for one that isn't known.
        overwritten: whether another record stands in its place, from which this one was restored.
    """

    attributes: Json
    nodes: Mapping[str, Json]
    checksums: Checksums = field(default_factory=dict)
    overwritten: bool = False

    @classmethod
    def parse(cls, content: bytes) -> CommitRecord:
        """The record that a root ``zarr.json`` holds; of a format that this version doesn't know, its attributes.

        Raises:
            ValueError, LookupError, TypeError, AttributeError, RecursionError: no writer makes such a record.
        """
        found, checksums = json.loads(content), {}
        version = int(found["attributes"]["probekit_format"])
        if not 1 <= version <= FORMAT:
            return cls(found["attributes"], {})
        if version > 1:
            check_seal(content, _DEPTH)
            by_path = found["consolidated_metadata"][CHUNK_CHECKSUMS]
            checksums = {path: base64.b64decode(text) for path, text in by_path.items()}
        check_record(found, checksums)
        return cls(found["attributes"], found["consolidated_metadata"]["metadata"], checksums)

    @classmethod
    def of(
        cls,
        layout: Layout,
        nodes: Mapping[str, Json],
        lengths: Mapping[str, int],
        names: Sequence[str],
        attrs: Json,
        checksums: Checksums,
    ) -> CommitRecord:
        """The record of a store at these lengths of its row dimensions, with the `names` of its classes."""
        of_arrays = {spec.path: lengths[dim] for dim, arrays in layout.arrays.items() for spec in arrays}
        own = {
            "probekit_format": FORMAT,  # a store keeps that of its beginning, among `attrs`
            **attrs,
            "chunk_rows": layout.rows_per_chunk,
            "token_rows": layout.tokens_per_chunk,
            "rows": lengths[SAMPLES],
            "coordinates": " ".join(layout.columns),
        }
        return cls(own, _at_lengths(nodes, of_arrays), checksums).named(names)._vouching()

    @property
    def format(self) -> int:
        return int(self.attributes["probekit_format"])

    @property
    def capture(self) -> str | None:
        """Which capture made the store; other captures at its place have another one, and version 1 has none."""
        return self.attributes.get("capture")

    @property
    def complete(self) -> bool:
        return bool(self.attributes["complete"])

    @property
    def rows(self) -> int:
        """The committed samples."""
        return int(self.attributes["rows"])

    @property
    def start(self) -> int:
        """The number of the first sample that the last capture into the store gave."""
        return int(self.attributes["start"])

    @property
    def expected_rows(self) -> int | None:
        """The samples that the store will hold, where that is known."""
        return self.attributes.get("expected_rows")

    @property
    def batch_size(self) -> int:
        return int(self.attributes["batch_size"])

    @property
    def rows_per_chunk(self) -> int:
        """Samples in a chunk; on disk the attribute is called ``chunk_rows``."""
        return int(self.attributes["chunk_rows"])

    @property
    def tokens_per_chunk(self) -> int:
        """Tokens in a chunk, of the sites whose rows are tokens; on disk the attribute is called ``token_rows``."""
        return int(self.attributes["token_rows"])

    @property
    def columns(self) -> list[str]:
        """The names of the samples' columns."""
        return str(self.attributes["coordinates"]).split()

    @cached_property
    def arrays(self) -> dict[str, ArraySpec]:
        """The arrays by their paths."""
        return specs_of(self.nodes)

    def length(self, path: str) -> int:
        """The committed rows of an array."""
        return int(self.nodes[path]["shape"][0])

    def lengths(self, layout: Layout) -> dict[str, int]:
        """The committed lengths of a layout's row dimensions."""
        return {dim: self.length(arrays[0].path) for dim, arrays in layout.arrays.items()}

    def at(self, lengths: Mapping[str, int]) -> CommitRecord:
        """The same with other lengths of the arrays at these paths."""
        return replace(self, nodes=_at_lengths(self.nodes, lengths))._vouching()

    def with_attributes(self, attributes: Json) -> CommitRecord:
        return replace(self, attributes=attributes)._vouching()

    def _vouching(self) -> CommitRecord:
        """The same without the checksums of chunks that aren't full yet: those are written again with more rows."""
        kept, in_rows = {}, math.ceil if self.complete else math.floor
        for path, spec in self.arrays.items():
            chunks = in_rows(self.length(path) / spec.chunk[0]) * spec.across
            kept[path] = bytes(self.checksums.get(path, b"")[: chunks * CHECKSUM_BYTES])
        return replace(self, checksums=kept)

    def named(self, names: Sequence[str]) -> CommitRecord:
        """The same with these names of the classes, where the samples have labels."""
        if CLASS_NAME not in self.nodes:
            return self
        classes = {
            CLASS_NAME: _at_length(self.nodes[CLASS_NAME], len(names)),
            "label": {**self.nodes["label"], "attributes": _flags(names)},
        }
        return replace(self, nodes={**self.nodes, **classes})

    def dump(self) -> bytes:
        """The root ``zarr.json``."""
        consolidated: Json = {"kind": "inline", "must_understand": False, "metadata": self.nodes}
        if self.format > 1:
            consolidated[CHUNK_CHECKSUMS] = {
                path: base64.b64encode(each).decode() for path, each in self.checksums.items()
            }
        content = dump(
            {
                "zarr_format": 3,
                "node_type": "group",
                "attributes": self.attributes,
                "consolidated_metadata": consolidated,
            }
        )
        return content if self.format == 1 else sealed(content, _DEPTH)


def nodes_of(layout: Layout, rows: int) -> dict[str, Json]:
    """The metadata of every node of a store but the root, by its path, at so many samples."""
    nodes: dict[str, Json] = {
        layout.groups[site.name]: {
            "zarr_format": 3,
            "node_type": "group",
            "attributes": {"site": site.name, **site.attrs},
        }
        for site in layout.sites
    }
    for dim, arrays in layout.arrays.items():
        for spec in arrays:
            nodes[spec.path] = ChunkCodec(spec).metadata(rows if dim == SAMPLES else 0)
    if "label" in layout.sample_columns:
        nodes[CLASS_NAME] = ChunkCodec(_CLASS_NAMES).metadata(0)
    return nodes


def class_name_chunks(names: Sequence[str]) -> list[tuple[str, list[bytes]]]:
    """The chunks that hold the names of the classes, each with its key."""
    codec = ChunkCodec(_CLASS_NAMES)
    chunks = []
    for first in range(0, len(names), CLASS_NAMES):
        few = names[first : first + CLASS_NAMES]
        chunk = np.array([*few, *[""] * (CLASS_NAMES - len(few))], object)
        chunks.append((codec.spec.key(first // CLASS_NAMES, 0), [bytes(each) for each in codec.encode(chunk)]))
    return chunks


def dump(content: Json) -> bytes:
    return json.dumps(content).encode()


def sealed(content: bytes, depth: int = 1) -> bytes:
    """JSON text with its checksum as the last entry of the object that its last `depth` braces end."""
    return content[:-depth] + _seal(content) + content[-depth:]


def check_seal(content: bytes, depth: int = 1) -> None:
    """Raise ValueError where text isn't what was `sealed`."""
    end = len(content) - depth
    body, seal = content[: end - _SEAL_BYTES] + content[end:], content[end - _SEAL_BYTES : end]
    if seal != _seal(body):
        raise ValueError("its checksum is wrong")


def _seal(content: bytes) -> bytes:
    return f', "{SEAL}": "{google_crc32c.value(content):08x}"'.encode()


_SEAL_BYTES = len(_seal(b""))


def _at_lengths(nodes: Mapping[str, Json], lengths: Mapping[str, int]) -> dict[str, Json]:
    return {path: _at_length(node, lengths[path]) if path in lengths else node for path, node in nodes.items()}


def _at_length(node: Json, rows: int) -> Json:
    return {**node, "shape": [rows, *node["shape"][1:]]}


def _flags(names: Sequence[str]) -> Json:
    """The attributes by which CF readers know the classes of label codes."""
    return {
        "flag_values": list(range(len(names))),
        "flag_meanings": " ".join(re.sub(r"\s+", "_", name) or "_" for name in names),
    }
