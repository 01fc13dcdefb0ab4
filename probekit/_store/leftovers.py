"""What writers that were stopped have left in a store, and nobody counts."""

from __future__ import annotations

import json
from collections.abc import Iterator

from probekit._store.backend import Backend
from probekit._store.layout import MAX_RECORD_BYTES, RECORD
from probekit._store.record import CommitRecord

__all__ = ["left_groups", "remove_node", "sweep"]

_OURS = {"site", "kind", "original_shape"}  # attributes of a site's group, which another's hardly has


def left_groups(backend: Backend, record: CommitRecord) -> Iterator[str]:
    """The groups of sites that the record doesn't have: whoever added them was killed."""
    for name in backend.names(""):
        if name not in record.nodes and RECORD in backend.names(name):
            try:
                node = json.loads(backend.read(f"{name}/{RECORD}", MAX_RECORD_BYTES))
                ours = node["node_type"] == "group" and node["attributes"].keys() >= _OURS
            except (OSError, ValueError, LookupError, TypeError, AttributeError):
                continue
            if ours:
                yield name


def sweep(backend: Backend, record: CommitRecord) -> None:
    """Remove what was left in a store that is locked."""
    for name in list(left_groups(backend, record)):
        remove_node(backend, name)


def remove_node(backend: Backend, name: str) -> None:
    """Remove a group, or an array of the root. Its metadata go last, since by them a later writer knows what it is."""
    for part in backend.names(name):
        if part != RECORD:
            backend.delete(f"{name}/{part}")
    backend.delete(name)
