"""The marks of several processes that write one store: which chunk rows are written, and what is in them.

A marker is of one capture. Those of a capture whose store was replaced count no more, wherever they were left.
"""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass

from probekit._files import NoFileError
from probekit._store.backend import Backend
from probekit._store.layout import MARKERS, MAX_RECORD_BYTES
from probekit._store.record import CHUNK_CHECKSUMS, Checksums, check_seal, dump, sealed

__all__ = ["Marker", "marked"]


@dataclass(frozen=True)
class Marker:
    """What a process has written of a chunk row: the checksums of its chunks, and the classes named by then."""

    class_names: tuple[str, ...]
    checksums: Checksums

    def write(self, backend: Backend, capture: str | None, chunk_row: int) -> None:
        """Put it there, once everything that it speaks of is there to stay."""
        chunks = {path: base64.b64encode(each).decode() for path, each in self.checksums.items()}
        content = dump({"capture": capture, "class_names": self.class_names, CHUNK_CHECKSUMS: chunks})
        backend.commit(f"{MARKERS}/{chunk_row}", sealed(content))

    @classmethod
    def read(cls, backend: Backend, capture: str | None, chunk_row: int) -> Marker | None:
        """The marker of a chunk row; None where this capture has none that is whole: then the chunk row isn't."""
        try:
            content = backend.read(f"{MARKERS}/{chunk_row}", MAX_RECORD_BYTES)
            check_seal(content)
        except (FileNotFoundError, NoFileError, ValueError):
            return None
        found = json.loads(content)
        if found["capture"] != capture:
            return None
        checksums = {path: base64.b64decode(text) for path, text in found[CHUNK_CHECKSUMS].items()}
        return cls(tuple(found["class_names"]), checksums)


def marked(backend: Backend, capture: str | None) -> set[int]:
    """The chunk rows that have a marker of this capture."""
    numbers = {int(name) for name in backend.names(MARKERS) if name.isdigit()}
    return {number for number in numbers if Marker.read(backend, capture, number) is not None}
