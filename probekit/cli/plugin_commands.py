"""The commands that list what is installed: metrics and recipes."""

from __future__ import annotations

import warnings
from dataclasses import astuple

from probekit import plugins
from probekit._recipe import Recipe
from probekit._table import Table
from probekit.cli import output
from probekit.cli.options import Json
from probekit.errors import PluginError

__all__ = ["metrics", "recipes"]


def metrics(json: Json = False) -> None:
    """List the installed metrics."""
    from probekit._measure.catalogue import describe_metrics

    rows = [astuple(description) for description in describe_metrics()]
    columns = ("metric", "kind", "shape", "from", "what it gives")
    output.table(Table(f"{len(rows)} metrics", columns, rows), as_json=json)


def recipes(json: Json = False) -> None:
    """List the installed recipes."""
    rows = []
    for plugin, recipe in plugins.load_all(plugins.RECIPES).items():
        try:
            Recipe.of(plugin.name, recipe)
        except PluginError as error:
            warnings.warn(f"{error} It is left out.", plugins.PluginWarning, stacklevel=1)
            continue
        rows.append((plugin.name, f"{plugin.distribution} {plugin.version}", _first_line(recipe)))
    output.table(Table(f"{len(rows)} recipes", ("recipe", "from", "what it does"), rows), as_json=json)


def _first_line(thing: object) -> str:
    return (thing.__doc__ or "").strip().partition("\n")[0]
