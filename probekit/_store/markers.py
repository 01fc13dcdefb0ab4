"""The marks of several processes that write one store: which chunk rows are written, and what is in them.

A marker is of one capture. Those of a capture whose store was replaced count no more, wherever they were left.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass, field

from probekit._files import NoFileError
from probekit._store.backend import Backend
from probekit._store.layout import MARKERS, MAX_RECORD_BYTES
from probekit._store.record import CHUNK_CHECKSUMS, Checksums, check_seal, dump, sealed

__all__ = ["Marker", "marked"]


@dataclass(frozen=True)
class Marker:
    """What a process has written of a chunk row.

    Attributes:
        class_names: the classes named by then.
        checksums: of its chunks; of a token site's arrays, those of all chunks that have rows of it, as far as the
            process wrote them.
        token_rows: its first row, and the one after its last, at each site whose rows are tokens, by the path of the
            activation.
    """

    class_names: tuple[str, ...]
    checksums: Checksums
    token_rows: Mapping[str, range] = field(default_factory=dict)

    def write(self, backend: Backend, capture: str | None, chunk_row: int) -> None:
        """Put it there, once everything that it speaks of is there to stay."""
        chunks = {path: base64.b64encode(each).decode() for path, each in self.checksums.items()}
        tokens = {path: [rows.start, rows.stop] for path, rows in self.token_rows.items()}
        known = {"capture": capture, "class_names": self.class_names, "token_rows": tokens}
        content = dump({**known, CHUNK_CHECKSUMS: chunks})
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
        tokens = {path: range(*rows) for path, rows in found.get("token_rows", {}).items()}
        return cls(tuple(found["class_names"]), checksums, tokens)


def marked(backend: Backend, capture: str | None) -> dict[int, Marker]:
    """The markers of this capture, by the numbers of their chunk rows."""
    numbers = sorted(int(name) for name in backend.names(MARKERS) if name.isdigit())
    found = {number: Marker.read(backend, capture, number) for number in numbers}
    return {number: marker for number, marker in found.items() if marker is not None}
