"""Where a store's bytes lie: the protocol of a backend, and the backend that a path or a URL names."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

from probekit._files import Content, PartialFile
from probekit._store.local import LocalBackend
from probekit._store.object_store import ObjectStoreBackend
from probekit.errors import StoreError

__all__ = ["Backend", "backend_of"]


class Backend(Protocol):
    """The operations that a store needs of the place where its bytes lie. A key is a path within the store.

    `write` puts a file there whole, or leaves what was there.
    """

    url: str
    parallel: int  # files that are worth writing at a time

    @property
    def begin(self) -> Callable[[str], PartialFile] | None:
        """Begins a file, by its key, that is written bit by bit; None where the backend puts whole files only."""

    def exists(self) -> bool: ...
    def is_folder(self) -> bool: ...
    def neighbours(self) -> list[str]: ...
    def free(self) -> int | None: ...
    def lock(self) -> AbstractContextManager[object]: ...
    def create(self, files: Mapping[str, bytes]) -> None: ...
    def read(self, key: str) -> bytes: ...
    def size(self, key: str) -> int: ...
    def write(self, key: str, contents: Iterable[Content]) -> None: ...
    def commit(self, key: str, content: bytes) -> None: ...
    def make_room(self, keys: Iterable[str]) -> None: ...
    def used(self, key: str) -> int: ...
    def names(self, key: str) -> list[str]: ...
    def delete(self, key: str) -> None: ...
    def remove(self) -> None: ...


def backend_of(path: str | Path, *, durable: bool = False) -> Backend:
    """The backend that `path` names: a folder, or a URL such as ``s3://bucket/acts.zarr``.

    Args:
        path: the store's.
        durable: have each file on the disk before the commit record that counts on it.

    Raises:
        StoreError: there is no package for such a URL, or `durable` is asked of a URL.
    """
    text = str(path)
    if isinstance(path, Path) or "://" not in text:
        return LocalBackend(Path(path), durable)
    if durable:
        raise StoreError(
            f"durable=True is for folders; an object store such as {text} has what it has confirmed.",
            arguments=("durable",),
        )
    return ObjectStoreBackend(text)
