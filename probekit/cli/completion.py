"""What the shell offers when a word is completed: metrics, models, data, and what a store holds. Never loads torch."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path

import typer

from probekit import plugins
from probekit.errors import ProbekitError

__all__ = ["classes", "columns", "data", "kinds", "metrics", "models", "sites", "stores"]

# Those of probekit.plot.kinds, which imports torch; the tests compare the two.
KINDS = (
    *("profile", "medians", "distributions", "heatmap", "by-class", "matrix", "pairs", "confusion", "samples"),
    *("by-step", "by-position"),
)
_RECORD = "zarr.json"
_DATA = ("digits", "mnist", "cifar10", "imagefolder:", "torchvision:", "hfdata:")
_FILES = (".npz", ".csv", ".tsv", ".jsonl", ".parquet", ".txt", ".py")
# torchvision and timm register a model's function under its name or the one that is given.
_REGISTERED = re.compile(
    r'^@register_model(?:\((?:name=)?(?:"(\w+)")?\))?\n(?:(?!^def ).*\n)*?def (\w+)\(', re.MULTILINE
)


def metrics(incomplete: str) -> list[str]:
    """The names of the installed metrics."""
    return _beginning(incomplete, plugins.find(plugins.METRICS))


def models(incomplete: str) -> list[str]:
    """Models by name, of the libraries that are installed, and Python files."""
    library, colon, _ = incomplete.partition(":")
    if not colon:
        return _beginning(incomplete, ["torchvision:", "timm:", "open_clip:", "hf:"]) + _paths(incomplete, (".py",))
    names = _downloaded() if library == "hf" else _registered(library) if library in ("torchvision", "timm") else []
    return _beginning(incomplete, (f"{library}:{name}" for name in names))


def data(incomplete: str) -> list[str]:
    """Data by name, and files of data."""
    return _beginning(incomplete, _DATA) + _paths(incomplete, _FILES)


def stores(incomplete: str) -> list[str]:
    """Stores and results, and folders that may have some, with a slash behind."""
    return _paths(incomplete, ())


def kinds(incomplete: str) -> list[str]:
    """The kinds of figures that `probekit plot` draws."""
    return _beginning(incomplete, KINDS)


def sites(ctx: typer.Context, incomplete: str) -> list[str]:
    """The sites of the store that stands on the line."""
    return _of_store(ctx, incomplete, _sites)


def classes(ctx: typer.Context, incomplete: str) -> list[str]:
    """The names of the classes of the store that stands on the line."""
    return _of_store(ctx, incomplete, _classes)


def columns(ctx: typer.Context, incomplete: str) -> list[str]:
    """``COLUMN=`` for the columns of the store that stands on the line, and then the classes of ``label=``."""
    column, equals, _ = incomplete.partition("=")
    if column in ("label", "prediction") and equals:
        return _of_store(ctx, incomplete, lambda store: [f"{column}={name}" for name in _classes(store)])
    return _of_store(ctx, incomplete, lambda store: [f"{name}=" for name in _columns(store)])


def _of_store(ctx: typer.Context, incomplete: str, find: Callable[[str], Iterable[str]]) -> list[str]:
    """What a store on this machine holds; nothing where there is none, or none that can be read."""
    # Behind an option that has no value yet, arguments aren't parsed.
    given = (ctx.params.get("path"), ctx.params.get("source"), *ctx.args)
    store = next((each for each in given if isinstance(each, str)), None)
    if store is None or "://" in store:
        return []
    try:
        return _beginning(incomplete, find(store))
    except ProbekitError:
        return []


def _sites(store: str) -> list[str]:
    from probekit._store.backend import backend_of
    from probekit._store.store import read_record

    nodes = read_record(backend_of(store)).nodes.values()
    return [node["attributes"]["site"] for node in nodes if "site" in node.get("attributes", {})]


def _columns(store: str) -> Sequence[str]:
    from probekit._store.backend import backend_of
    from probekit._store.store import read_record

    return list(read_record(backend_of(store)).columns)


def _classes(store: str) -> Sequence[str]:
    from probekit._store.backend import backend_of
    from probekit._store.store import class_names, read_record

    backend = backend_of(store)
    return class_names(backend, read_record(backend))


def _registered(library: str) -> list[str]:
    """The models that a library registers, read from its source, since importing it takes seconds."""
    spec = find_spec(library)
    if spec is None or spec.origin is None:
        return []
    sources = (Path(spec.origin).parent / "models").rglob("*.py")
    found = (match for source in sources for match in _REGISTERED.finditer(source.read_text("utf-8")))
    return sorted({match[1] or match[2] for match in found})


def _downloaded() -> list[str]:
    """The models in the cache of Hugging Face, at its usual place or where the environment says."""
    home = Path(os.environ.get("HF_HOME", "~/.cache/huggingface")).expanduser()
    hub = Path(os.environ.get("HF_HUB_CACHE", home / "hub"))
    return sorted(folder.name.removeprefix("models--").replace("--", "/") for folder in hub.glob("models--*"))


def _paths(incomplete: str, endings: tuple[str, ...]) -> list[str]:
    """Folders, and files with one of these endings."""
    folder, slash, name = incomplete.rpartition("/")
    place = Path(folder + slash or ".").expanduser()
    return [f"{folder}{slash}{entry}" for entry in _entries(place, endings) if entry.startswith(name)]


def _entries(place: Path, endings: tuple[str, ...]) -> Iterator[str]:
    if not place.is_dir():
        return
    for entry in sorted(place.iterdir()):
        if entry.is_dir() and not entry.name.startswith("."):
            yield entry.name if (entry / _RECORD).is_file() else f"{entry.name}/"
        elif entry.suffix in endings:
            yield entry.name


def _beginning(incomplete: str, names: Iterable[str]) -> list[str]:
    return [name for name in names if name.startswith(incomplete)]
