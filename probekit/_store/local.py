"""Stores in folders."""

from __future__ import annotations

import errno
import os
import shutil
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout
from zarr.abc.store import Store
from zarr.storage import LocalStore

from probekit._files import PARTIAL, Content, PartialFile, leftovers, open_regular, read_regular, sweep, whole_folder
from probekit.errors import StoreError

__all__ = ["LocalBackend", "locked"]

try:
    import fcntl
except ImportError:  # on Windows, whose file systems have locks
    fcntl = None  # type: ignore[assignment]

LOCK = ".lock"
_LINK = (
    "{link} is a link, which no writer of a store makes, so nothing is written to {store}. Replace the link by its "
    "target."
)


class LocalBackend:
    """A folder. With `durable`, what `commit` puts there outlives a power loss, and so does all written before."""

    parallel = 1

    def __init__(self, path: Path, durable: bool = False) -> None:
        # "." and ".." have no name, beside which a new store could be made.
        self.path = path if path.name not in ("", "..") else Path(os.path.abspath(path))
        self.url = str(path)
        self._durable = durable
        self._unsettled: set[str] = set()  # folders with entries that may not be on the disk yet
        self._followed: set[str] = set()  # folders that lie in the store, and are no links out of it

    def exists(self) -> bool:
        return self.path.exists() or self.path.is_symlink()

    def is_folder(self) -> bool:
        return self.path.is_dir()

    def neighbours(self) -> list[str]:
        """The names that lie beside the store."""
        return [entry.name for entry in self.path.parent.iterdir()] if self.path.parent.is_dir() else []

    def left_beside(self) -> list[str]:
        return [entry.name for entry in leftovers(self.path.parent, f".{self.path.name}.")]

    def free(self) -> int | None:
        """Bytes that the disk has left."""
        path = self.path.absolute()
        return shutil.disk_usage(next(p for p in (path, *path.parents) if p.exists())).free

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the store for writing; the system lets go of it when the process dies.

        Raises:
            StoreError: another process holds it, it can't be written, or it leads elsewhere.
        """
        self._refuse_links()
        self._followed.clear()
        sweep(self.path.parent, f".{self.path.name}.")
        file = self.path / LOCK
        refusal = (
            f"{self.path} is being written by another process. Wait until it is done or stop it; what it committed "
            "is kept, and resume=True resumes from there."
        )
        with locked(file, refusal, arguments=("resume",)):
            try:
                yield
            finally:
                file.unlink(missing_ok=True)

    def _refuse_links(self) -> None:
        """Raise StoreError where a folder of chunks leads out of the store: what is written there would land elsewhere.

        Chunks lie in ``group/array/c``; below that the writer makes folders of its own.
        """
        folders = [self.path]
        for _ in range(3):
            entries = [entry for folder in folders for entry in os.scandir(folder)]
            for entry in entries:
                if entry.is_symlink():
                    raise StoreError(_LINK.format(link=entry.path, store=self.path))
            folders = [Path(entry.path) for entry in entries if entry.name != "c" and entry.is_dir()]

    def _check_folder(self, folder: str) -> None:
        """Raise StoreError where a folder within the store is a link, or lies in one."""
        if folder in self._followed or len(folder) <= len(str(self.path)):
            return
        if os.path.islink(folder):
            raise StoreError(_LINK.format(link=folder, store=self.path))
        self._check_folder(os.path.dirname(folder))
        self._followed.add(folder)

    def create(self, files: Mapping[str, bytes]) -> None:
        """Put a new store there, whole or not at all."""
        with whole_folder(self.path) as folder:
            for key, content in files.items():
                (folder / key).parent.mkdir(parents=True, exist_ok=True)
                (folder / key).write_bytes(content)
                del content  # before the next is made
            if self._durable:
                for made, _, names in os.walk(folder):
                    for name in names:
                        _sync(os.path.join(made, name))
                    _sync(made)
        if self._durable:
            _sync(str(self.path.absolute().parent))

    def read(self, key: str, most: int) -> bytes:
        return read_regular(self.path / key, most)

    def size(self, key: str) -> int:
        with open_regular(self.path / key) as file:
            return os.fstat(file.fileno()).st_size

    def write(self, key: str, contents: Iterable[Content]) -> None:
        file = self.begin(key)
        try:
            for content in contents:
                file.write(content)
            file.end()
        except OSError:
            file.drop()
            raise

    def begin(self, key: str) -> PartialFile:
        """A file to be written bit by bit."""
        path = os.path.join(self.path, key)
        self._check_folder(os.path.dirname(path))
        touched = {os.path.dirname(path)}

        def open_file() -> PartialFile:
            # Noted when it appears: what begins before a commit may appear after it.
            appeared = lambda: self._unsettled.update(touched)
            return PartialFile(path, f"{path}{PARTIAL}", durable=self._durable, appeared=appeared)

        try:
            return open_file()
        except FileNotFoundError:
            touched |= _make_folders(os.path.dirname(path), os.path.join(self.path, key.partition("/c/")[0], "c"))
            return open_file()

    def commit(self, key: str, content: bytes) -> None:
        """Write `key` after everything that was written before it is there to stay."""
        self._settle()
        self.write(key, [content])
        self._settle()

    def _settle(self) -> None:
        for folder in self._unsettled if self._durable else ():
            _sync(folder)
        self._unsettled.clear()

    def make_room(self, keys: Iterable[str]) -> None:
        """Make the folders that chunks will be written into, below which `write` makes more."""
        for key in keys:
            folder = self.path / key
            self._check_folder(str(folder))
            folder.mkdir(parents=True, exist_ok=True)
            self._unsettled.update(map(str, [folder, *folder.parents[: len(Path(key).parts)]]))

    def used(self, key: str) -> int:
        """Bytes of everything under `key`."""
        found = 0
        for folder, _, files in os.walk(self.path / key):
            for file in files:
                with suppress(FileNotFoundError):  # a writer renames what it has written
                    found += os.lstat(os.path.join(folder, file)).st_size
        return found

    def names(self, key: str) -> list[str]:
        folder = self.path / key
        return [file.name for file in folder.iterdir()] if folder.is_dir() else []

    def delete(self, key: str) -> None:
        """Remove the file or the folder `key`, where it exists."""
        target = self.path / key
        self._check_folder(os.path.dirname(target))
        if target.is_dir() and not target.is_symlink():
            shutil.rmtree(target)
        else:
            target.unlink(missing_ok=True)

    def for_zarr(self) -> Store:
        return LocalStore(self.path, read_only=True)


@contextmanager
def locked(file: Path, refusal: str, arguments: Sequence[str] = ()) -> Iterator[None]:
    """Hold a lock file, which the system lets go of when the process dies.

    Raises:
        StoreError: `refusal`, about these `arguments`, where another process holds it; or it can't be written.
    """
    with ExitStack() as stack:
        try:
            stack.enter_context(FileLock(file, timeout=0))
        except (Timeout, OSError, NotImplementedError) as error:
            if _has_locks(file):
                if isinstance(error, Timeout):
                    raise StoreError(refusal, arguments=arguments) from error
                raise StoreError(f"{file.parent} can't be written: {getattr(error, 'strerror', error)}.") from error
            warnings.warn(
                f"The file system of {file.parent} has no locks, so nothing keeps a second writer away. Let only one "
                "process write there.",
                stacklevel=4,
            )
        yield


def _has_locks(file: Path) -> bool:
    """Whether the file system of a file, which couldn't be locked, has locks at all."""
    if fcntl is None or not file.exists():
        return True
    with open(file, "rb") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            return error.errno in (errno.EAGAIN, errno.EACCES)
    return True


def _make_folders(folder: str, root: str) -> set[str]:
    """Make the folders of a new chunk row below `root`, the array's own, and say which have a new entry.

    Where `root` is missing, someone has removed the store: FileNotFoundError.
    """
    try:
        os.mkdir(folder)
    except FileNotFoundError:
        os.stat(root)
        os.makedirs(folder, exist_ok=True)
    touched = set()
    while len(folder) > len(root):
        folder = os.path.dirname(folder)
        touched.add(folder)
    return touched


def _sync(folder: str) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
