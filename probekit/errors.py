"""The errors that users meet. Each message says what was asked, what is there instead, and what to do."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

__all__ = ["DataError", "ModelError", "PluginError", "ProbekitError", "SiteError", "StoreError", "check_choice", "near"]


class ProbekitError(Exception):
    """Any error of probekit's own; the command line prints its message and exits with code 1."""


class SiteError(ProbekitError):
    """A site that was asked for isn't there, or can't be recorded as asked."""


class ModelError(ProbekitError):
    """A model can't be loaded, or can't be run on the data."""


class DataError(ProbekitError):
    """The data, labels or ids handed in don't fit together."""


class StoreError(ProbekitError):
    """A store can't be created, written, or opened."""


class PluginError(ProbekitError):
    """A metric, recipe or loader is unknown, broken, or asked for something that it can't do."""


def check_choice(name: str, value: object, known: Iterable[object], error: type[ProbekitError] = DataError) -> None:
    """Raise an `error` where the argument `name` has a value that isn't among the `known` ones."""
    *most, last = known
    if value not in (*most, last):
        raise error(f"{name} is {value!r}; it is {', '.join(map(repr, most))} or {last!r}.")


def near(name: str, known: Iterable[str]) -> str:
    """A sentence `` Near: 'relu1', 'relu2'.`` with the known names closest to `name`, or an empty string."""
    # Case is folded so that `Layers.0` finds `layers.0`.
    by_folded = {candidate.casefold(): candidate for candidate in known}
    close = [by_folded[match] for match in get_close_matches(name.casefold(), by_folded, n=3, cutoff=0.5)]
    return f" Near: {', '.join(map(repr, close))}." if close else ""
