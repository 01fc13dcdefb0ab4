"""What options with a syntax of their own stand for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    import torch

__all__ = ["classes_of", "device_of", "file_to_write", "path_of", "sides_of", "where_of", "zeros_of"]


def where_of(given: Sequence[str] | None, store: str) -> dict[str, list[object]] | None:
    """COLUMN=VALUE, as the values that are wanted, each of the type that the column has in the store.

    In a column of classes a text that isn't the code of one is a name.
    """
    wanted: dict[str, list[object]] = {}
    for one in given or ():
        column, equals, text = one.partition("=")
        if not equals:
            raise typer.BadParameter(f"{one!r} isn't COLUMN=VALUE.", param_hint="--where")
        wanted.setdefault(column, []).append(text)
    return {column: _typed(column, texts, store) for column, texts in wanted.items()} or None


def _typed(column: str, texts: Sequence[object], store: str) -> list[object]:
    from probekit._measure.grouping import CLASSES
    from probekit._store.backend import backend_of
    from probekit._store.store import class_names, read_record

    backend = backend_of(store)
    record = read_record(backend)
    names = class_names(backend, record)
    if column in CLASSES and names:
        return [class_of(str(text), names) for text in texts]
    spec = record.arrays.get(column)
    if spec is None and column != "correct":
        return list(texts)  # a column that measure says isn't there
    kind = "b" if spec is None else spec.dtype.kind
    return [_value(column, str(text), kind) for text in texts]


def classes_of(texts: Sequence[str] | None, store: str) -> list[int] | None:
    """The codes of classes that are given by code or name; DataError for a class that the store doesn't have."""
    from probekit._store.backend import backend_of
    from probekit._store.class_names import places_of
    from probekit._store.store import class_names, read_record

    if texts is None:
        return None
    backend = backend_of(store)
    names = class_names(backend, read_record(backend))
    return places_of([class_of(text, names) for text in texts], range(len(names)), names, "classes")


def class_of(text: str, names: Sequence[str]) -> int | str:
    """The class that a text stands for: its code where it is the code of one, or else its name."""
    return int(text) if text.isdecimal() and int(text) < len(names) else text


def _value(column: str, text: str, kind: str) -> object:
    """What a text means in a column of a `kind` of numpy's dtypes."""
    if kind == "U":
        return text
    read, expected = _READERS[kind]
    try:
        return read(text)
    except (ValueError, KeyError):
        raise typer.BadParameter(f"{column} holds {expected}; {text!r} is none.", param_hint="--where") from None


_BOOLS = {"true": True, "false": False, "1": True, "0": False}
_READERS: dict[str, tuple[Callable[[str], object], str]] = {
    "b": (lambda text: _BOOLS[text.casefold()], "true and false"),
    "i": (int, "integers"),
    "f": (float, "numbers"),
}


def path_of(text: str) -> Path:
    """A path, also one that begins with ``~`` or ``file://``."""
    from probekit._files import local_path

    return local_path(text, "path")


def file_to_write(path: Path | None, option: str) -> Path | None:
    """The path of a file, once its folder is there: what takes long must not end with nothing written."""
    if path is not None and not path.absolute().parent.is_dir():
        raise typer.BadParameter(f"There is no folder {str(path.parent)!r}.", param_hint=option)
    return path


def zeros_of(shape: str) -> torch.Tensor:
    """Two samples of zeros, each of a shape such as 3x224x224."""
    import torch

    try:
        return torch.zeros(2, *map(int, shape.split("x")))
    except (ValueError, RuntimeError) as error:  # RuntimeError: a negative length
        raise typer.BadParameter(f"--shape {shape!r} is not a shape such as 3x224x224.") from error


def sides_of(text: str | None) -> int | tuple[int, int] | None:
    """The sides that 224 or 224x320 stands for; None for none."""
    if text is None:
        return None
    try:
        sides = tuple(map(int, text.split("x")))
    except ValueError:
        sides = ()
    if len(sides) not in (1, 2):
        raise typer.BadParameter(f"{text!r} is not a size such as 224 or 224x320.", param_hint="--resize")
    return sides[0] if len(sides) == 1 else (sides[0], sides[1])


def device_of(name: str) -> torch.device:
    """A device that this machine has."""
    import torch

    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise typer.BadParameter(f"--device {name!r}: {error}") from error
    return device
