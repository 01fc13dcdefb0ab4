"""Objects of the user's own code by name: ``file.py:factory`` and ``package.module:factory``."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from probekit._files import local_path
from probekit.errors import ProbekitError, near

__all__ = ["few", "is_factory", "made"]


def is_factory(name: str) -> bool:
    """Whether a name is one of the user's code."""
    source, _, factory = name.rpartition(":")
    return source.endswith(".py") or (factory.isidentifier() and all(map(str.isidentifier, source.split("."))))


def made(name: str, kinds: type | tuple[type, ...], error: type[ProbekitError]) -> Any:
    """What the factory that a name stands for returns, called without arguments; or it itself, if of these `kinds`.

    Runs the module or file. A file can import the modules in its folder, as under ``python file.py``.

    Raises an `error` if there is no such factory, or its code raises.
    """
    with _found(name, error) as found:
        if isinstance(found, kinds):
            return found
        return _called(found, name, error)


@contextmanager
def _found(name: str, error: type[ProbekitError]) -> Iterator[Any]:
    """What a name stands for; while it is called, a file's folder can be imported from."""
    source, _, what = name.rpartition(":")
    if not source.endswith(".py"):
        yield _member(_module(source, what, error), what, source, error)
        return
    path = local_path(source, "name", error)
    if not path.is_file():
        raise error(f"There is no file {str(path)!r} to take {what!r} from.")
    with _importable(path.parent):
        yield _member(_run(path, error), what, str(path), error)


def _module(source: str, factory: str, kind: type[ProbekitError]) -> ModuleType:
    try:
        return importlib.import_module(source)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{source}.".startswith(f"{error.name}."):
            raise _failed(f"Importing {source!r}", error, kind) from error  # one that the module imports doesn't exist
        raise kind(
            f"There is no module {error.name!r} to import for '{source}:{factory}'. Install the package, put its "
            f"folder on PYTHONPATH, or name the file: path/to/file.py:{factory}."
        ) from error
    except (Exception, SystemExit) as error:
        raise _failed(f"Importing {source!r}", error, kind) from error


def _run(path: Path, kind: type[ProbekitError]) -> ModuleType:
    # In sys.modules under a name of its own, since some code looks up its module there (dataclasses do).
    spec = importlib.util.spec_from_file_location(f"_probekit_file_{path.stem}", path)
    assert spec is not None  # a .py file always has a loader
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[spec.name]
        raise _failed(f"Running {str(path)!r}", error, kind) from error
    return module


@contextmanager
def _importable(folder: Path) -> Iterator[None]:
    entry = str(folder.resolve())
    sys.path.insert(0, entry)
    try:
        yield
    finally:
        sys.path.remove(entry)


def _member(module: ModuleType, factory: str, source: str, kind: type[ProbekitError]) -> Any:
    found = getattr(module, factory, None)
    if found is None:
        names = [name for name, value in vars(module).items() if callable(value) and not name.startswith("_")]
        there = near(factory, names) or f" It has {few(map(repr, names)) or 'none'}."
        raise kind(f"{source!r} has no function or class {factory!r}.{there}")
    return found


def _called(make: Any, name: str, kind: type[ProbekitError]) -> Any:
    if not callable(make):
        raise kind(f"{name!r} is a {type(make).__name__}, not a function or class that can be called.")
    try:
        return make()
    except (Exception, SystemExit) as error:
        raise _failed(f"Calling {name!r} with no arguments", error, kind) from error


def _failed(doing: str, error: BaseException, kind: type[ProbekitError]) -> ProbekitError:
    return kind(f"{doing} raised {type(error).__name__}: {error}")


def few(items: Iterable[str], most: int = 5) -> str:
    """The first `most` of the items, and how many more there are."""
    listed = list(items)
    more = f" and {len(listed) - most} more" if len(listed) > most else ""
    return ", ".join(listed[:most]) + more
