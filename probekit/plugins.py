"""Metrics and recipes that installed distributions, including probekit, register as entry points."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterable
from dataclasses import dataclass, replace
from email import message_from_string
from functools import cache, lru_cache
from importlib.metadata import EntryPoint, distributions, entry_points
from typing import Any

from probekit.errors import DISTRIBUTION, REINSTALL, PluginError, near

__all__ = [
    "METRICS",
    "RECIPES",
    "InstallationWarning",
    "Plugin",
    "PluginWarning",
    "find",
    "load",
    "load_all",
]

METRICS = "probekit.metrics"
RECIPES = "probekit.recipes"


class PluginWarning(UserWarning):
    """An installed plugin can't be used and is left out of a listing."""


class InstallationWarning(UserWarning):
    """Another project's distribution is installed whose files have the places of probekit's."""


@dataclass(frozen=True)
class Plugin:
    """One entry point: an object that a distribution registers under a name.

    `value` is the object to import (``package.module:attribute``). `rivals` are the plugins that other distributions
    register under the same name of the same group. If there are any, no plugin has the name.
    """

    name: str
    group: str
    value: str
    distribution: str
    version: str
    rivals: tuple[Plugin, ...] = ()

    def load(self) -> Any:
        """The object that `value` names.

        Raises PluginError when other distributions register the same name, or when the import fails.
        """
        if self.rivals:
            raise PluginError(self._clash())
        try:
            return EntryPoint(self.name, self.value, self.group).load()
        except (Exception, SystemExit) as error:  # importing someone else's module may raise anything
            message = (
                f"The {_kind(self.group)} {self.name!r} of {self._source()} can't be loaded: importing {self.value!r} "
                f"raised {type(error).__name__}: {error}. Mend or uninstall {self.distribution}."
            )
            raise PluginError(message) from error

    def _source(self) -> str:
        return f"{self.distribution} {self.version}"

    def _clash(self) -> str:
        sources = " and ".join(f"{each._source()} ({each.value})" for each in (self, *self.rivals))
        return (
            f"The name {self.name!r} is registered as a {_kind(self.group)} by {sources}, "
            f"so it stands for none of them. Uninstall all but one."
        )


def find(group: str) -> dict[str, Plugin]:
    """The plugins that are installed under an entry-point group, by name in alphabetical order; nothing is imported.

    >>> find(METRICS)["median"].distribution
    'probekit-torch'
    """
    by_name: dict[str, Plugin] = {}
    for plugin in _registered(group, tuple(sys.path)):
        first = by_name.setdefault(plugin.name, plugin)
        if first is not plugin:
            by_name[plugin.name] = replace(first, rivals=(*first.rivals, plugin))
    return by_name


def load(group: str, name: str) -> Any:
    """The object that is registered under `name`.

    Raises PluginError if no distribution registers the name, if several do, or if the object can't be imported.
    """
    found = find(group)
    if name not in found:
        _registered.cache_clear()  # it may have been installed since
        found = find(group)
    if name not in found:
        raise PluginError(_unknown(group, name, found))
    return found[name].load()


def load_all(group: str) -> dict[Plugin, Any]:
    """Every plugin of a group that can be loaded, with its object; warns with PluginWarning of each that can't."""
    loaded = {}
    for plugin in find(group).values():
        try:
            loaded[plugin] = plugin.load()
        except PluginError as error:
            warnings.warn(str(error), PluginWarning, stacklevel=2)
    return loaded


@cache
def warn_of_namesake() -> None:
    """Warn, once a process, where the distribution `probekit`, which is another project's, is installed too."""
    namesake, own = (next(iter(distributions(name=name)), None) for name in ("probekit", DISTRIBUTION))
    if namesake and own:
        warnings.warn(
            f"Another project's distribution, probekit {namesake.version}, is installed beside {DISTRIBUTION} "
            f"{own.version}, and each overwrites files of the other: {REINSTALL}.",
            InstallationWarning,
            stacklevel=3,
        )


@lru_cache(maxsize=4)
def _registered(group: str, path: tuple[str, ...]) -> tuple[Plugin, ...]:
    """One plugin for each name and distribution, sorted by both.

    The result is cached, since reading the metadata of all distributions on the `path` takes a tenth of a second.
    """
    first: dict[tuple[str, str], Plugin] = {}
    for entry in entry_points(group=group):
        assert entry.dist is not None  # entry_points() reads them from distributions
        # Of a distribution that was half removed, or is damaged, there is no METADATA file.
        about = message_from_string(entry.dist.read_text("METADATA") or entry.dist.read_text("PKG-INFO") or "")
        name, version = about.get("Name", "a distribution without metadata"), about.get("Version", "of no version")
        plugin = Plugin(entry.name, group, entry.value, name, version)
        # A distribution may appear twice (a checkout's egg-info and the installed one). The first on sys.path counts,
        # as it does for imports.
        first.setdefault((plugin.name, plugin.distribution), plugin)
    return tuple(first[key] for key in sorted(first))


def _unknown(group: str, name: str, found: Iterable[str]) -> str:
    known = list(found)
    kind = _kind(group)
    if not known:  # probekit registers its own, so its metadata isn't there
        return (
            f"No {kind} {name!r}: nothing is registered under {group!r}, not even by probekit itself, which was "
            f"imported from its source without being installed. Install it: `pip install -e .` in the checkout."
        )
    return (
        f"No {kind} {name!r} among the {len(known)} that are installed.{near(name, known)} "
        f"List them with `probekit {kind}s`."
    )


def _kind(group: str) -> str:
    return group.removeprefix("probekit.").removesuffix("s")
