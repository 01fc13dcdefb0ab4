"""The errors that users meet. Each message says what was asked, what is there instead, and what to do."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, ClassVar

__all__ = [
    "DataError",
    "MissingWarning",
    "ModelError",
    "PluginError",
    "ProbekitError",
    "SiteError",
    "StoreError",
    "arguments_of",
    "check_choice",
    "check_kind",
    "near",
    "plain",
]

# The name that is installed. It isn't in `_version` because the distribution `probekit` of another project has a
# `_version.py` and an `__init__.py` too: where both are installed, the later one overwrites these two files.
DISTRIBUTION = "probekit-torch"
REINSTALL = f"uninstall both (`pip uninstall probekit {DISTRIBUTION}`), then install {DISTRIBUTION} again"

RESULTS = "results of probekit.measure, a DataTree, which xarray.open_datatree gives of those on disk"
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")  # all but tabs and ends of lines
_LONG = 60  # characters of a value that a message shows

if "errors" not in getattr(sys.modules["probekit"], "__all__", ()):
    raise ImportError(
        f"The package probekit in {list(sys.modules['probekit'].__path__)} isn't the one of {DISTRIBUTION}, because "
        f"another project's distribution, named probekit, has replaced or removed its files: {REINSTALL}."
    )


def plain(text: str) -> str:
    """Text without control characters, which a name of unknown origin may bring: a terminal obeys them."""
    return _CONTROL.sub("\N{REPLACEMENT CHARACTER}", text)


class ProbekitError(Exception):
    """Any error of probekit's own; the command line prints its message and exits with code 1.

    `arguments` names the arguments of the public function that the message is about, such as
    ``("resume", "overwrite")``. The command line adds the options of these names to the message.
    """

    def __init__(self, message: str, *, arguments: Sequence[str] = ()) -> None:
        super().__init__(plain(message))
        self.arguments = tuple(dict.fromkeys(arguments))


class SiteError(ProbekitError):
    """A site that was asked for isn't there, or can't be recorded as asked."""


class ModelError(ProbekitError):
    """A model can't be loaded, or can't be run on the data."""


class DataError(ProbekitError):
    """The data, labels or ids handed in don't fit together."""


class AdvisedError(DataError):
    """Base of errors whose `fact` another function tells with an advice of its own."""

    advice: ClassVar[str]
    about: ClassVar[tuple[str, ...]]  # the arguments that the advice names

    def __init__(self, fact: str) -> None:
        self.fact = fact
        super().__init__(f"{fact}{self.advice}", arguments=self.about)

    def __reduce__(self) -> tuple[type[AdvisedError], tuple[str]]:  # of the message otherwise
        return type(self), (self.fact,)


class StoreError(ProbekitError):
    """A store can't be created, written, or opened."""


class PluginError(ProbekitError):
    """A metric, recipe or loader is unknown, broken, or asked for something that it can't do."""


class MissingWarning(UserWarning):
    """A metric has no number at any site, and why; `probekit.measure` and `probekit.measure_live` warn of it.

    >>> import warnings
    >>> warnings.simplefilter("ignore", MissingWarning)
    """


def arguments_of(error: BaseException) -> tuple[str, ...]:
    """The arguments that an error is about, for another error that tells its message; none for foreign errors."""
    return error.arguments if isinstance(error, ProbekitError) else ()


def check_choice(name: str, value: object, known: Iterable[object], error: type[ProbekitError] = DataError) -> None:
    """Raise an `error` where the argument `name` has a value that isn't among the `known` ones."""
    *most, last = known
    # An array is equal to nothing and to anything.
    if not any(type(value) is type(one) and value == one for one in (*most, last)):
        raise error(f"{name} is {value!r}; it is {', '.join(map(repr, most))} or {last!r}.", arguments=(name,))


def check_kind(
    name: str,
    value: object,
    kinds: Any,
    expected: str,
    error: type[ProbekitError] = DataError,
) -> None:
    """Raise an `error` where the argument `name` is of none of the `kinds`; `expected` says what it has to be.

    >>> check_kind("by", "label", str, "the name of a column")
    >>> check_kind("by", ["label"], str, "the name of a column")
    Traceback (most recent call last):
    probekit.errors.DataError: by is a list, ['label']; it has to be the name of a column.
    """
    wanted = kinds if isinstance(kinds, tuple) else (kinds,)
    if isinstance(value, kinds) and not (isinstance(value, bool) and bool not in wanted):
        return
    kind = type(value).__name__
    shown = "None" if value is None else f"{'an' if kind[0] in 'aeiou' else 'a'} {kind}"
    if isinstance(value, str | bytes | int | float | list | tuple | dict):
        shown += f", {repr(value) if len(repr(value)) <= _LONG else repr(value)[:_LONG] + '…'}"
    raise error(f"{name} is {shown}; it has to be {expected}.", arguments=(name,))


def near(name: str, known: Iterable[str]) -> str:
    """A sentence `` Near: 'relu1', 'relu2'.`` with the known names closest to `name`, or an empty string."""
    # Case is folded so that `Layers.0` finds `layers.0`.
    by_folded = {candidate.casefold(): candidate for candidate in known}
    close = [by_folded[match] for match in get_close_matches(name.casefold(), by_folded, n=3, cutoff=0.5)]
    return f" Near: {', '.join(map(repr, close))}." if close else ""


def install_command(extra: str) -> str:
    """The command that installs one of probekit's extras where this probekit is: in its checkout, or from an index.

    >>> install_command("s3")
    "`pip install -e '.[s3]'` in the checkout"
    """
    if _is_checkout():
        return f"`pip install -e '.[{extra}]'` in the checkout"  # without -e a copy would replace an editable install
    return f"`pip install '{DISTRIBUTION}[{extra}]'`"


def upgrade_command() -> str:
    """The command that brings the newest probekit, in the same way."""
    return "`git pull && pip install -e .` in the checkout" if _is_checkout() else f"`pip install -U {DISTRIBUTION}`"


def _is_checkout() -> bool:
    project = Path(__file__).parents[1] / "pyproject.toml"
    return project.is_file() and f'name = "{DISTRIBUTION}"'.encode() in project.read_bytes()
