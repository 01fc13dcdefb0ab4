"""What a metric gives, in its own words."""

from __future__ import annotations

import inspect

from probekit import plugins
from probekit.errors import ProbekitError

__all__ = ["meaning_of"]


def meaning_of(metric: str) -> str:
    """The first line of a metric's docstring; nothing where the metric isn't installed here."""
    try:
        found = plugins.load(plugins.METRICS, metric)
    except ProbekitError:
        return ""
    return (inspect.getdoc(found) or "").partition("\n")[0].replace("`", "")
