"""What writers that were stopped have left in a store, and nobody counts."""

from __future__ import annotations

import json

from probekit._store.backend import Backend
from probekit._store.layout import MAX_RECORD_BYTES, RECORD
from probekit._store.record import CommitRecord

__all__ = ["left_groups", "own_nodes", "remove_node", "sweep"]

_OF_SITES = {"site", "kind", "original_shape"}  # attributes of a site's group, which another's hardly has
_OF_COLUMNS = (["sample"], ["label"])  # the dims of arrays at the root


def left_groups(backend: Backend, record: CommitRecord) -> list[str]:
    """The groups of sites that the record doesn't have: whoever added them was killed."""
    return [name for name in backend.names("") if name not in record.nodes and _kind(backend, name) == "group"]


def own_nodes(backend: Backend) -> list[str]:
    """The groups of sites and the columns that lie in a store, whichever record they are of."""
    return [name for name in backend.names("") if _kind(backend, name)]


def _kind(backend: Backend, name: str) -> str | None:
    """``group`` of a site or ``array`` of a column, by the metadata; None for what isn't a writer's."""
    if RECORD not in backend.names(name):
        return None
    try:
        node = json.loads(backend.read(f"{name}/{RECORD}", MAX_RECORD_BYTES))
        kind = str(node["node_type"])
        ours = node["attributes"].keys() >= _OF_SITES if kind == "group" else node["dimension_names"] in _OF_COLUMNS
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return None
    return kind if ours else None


def sweep(backend: Backend, record: CommitRecord) -> None:
    """Remove what was left in a store that is locked."""
    for name in left_groups(backend, record):
        remove_node(backend, name)


def remove_node(backend: Backend, name: str) -> None:
    """Remove a group, or an array of the root. Its metadata go last, since by them a later writer knows what it is."""
    for part in backend.names(name):
        if part != RECORD:
            backend.delete(f"{name}/{part}")
    backend.delete(name)
