"""Sites that have neither a row for each sample nor, for sure, one for each token: what to select in place of them."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from torch import nn

from probekit._probe.site_name import ROOT
from probekit._probe.site_table import Site
from probekit.errors import SiteError

__all__ = ["check_rows_known"]


def check_rows_known(site: Site, rows: int, positions: Collection[int], modules: Mapping[str, nn.Module]) -> None:
    """Raise SiteError where axis 0 may be sample × position but isn't for sure, or where the site is of an expert.

    Args:
        rows: the number of samples.
        positions: the numbers of positions that these may have.
        modules: the model's, by name.
    """
    length = site.shape[0]
    if length in {rows * count for count in positions}:
        raise SiteError(
            f"Axis 0 of {site.name} ({site.type}), of shape {site.shape}, is as long as {rows} samples × "
            f"{length // rows} positions, but whether it is that can't be told: with the samples in another order, or "
            "of another length, it doesn't give the same rows, sample by sample. Select other sites (sites=); or pass "
            "a callable that makes (sample, …) of it in reduce=.",
            arguments=("sites", "reduce"),
        )
    if "expert" in f"{site.name} {site.type}".lower():
        raise SiteError(
            f"{site.name} ({site.type}), of shape {site.shape}, has a row neither for each of the {rows} samples nor "
            "for each of their positions, as an expert that gets only the tokens routed to it. "
            f"{_instead_of(site.module, modules)}",
            arguments=("sites",),
        )


def _instead_of(expert: str, modules: Mapping[str, nn.Module]) -> str:
    """What to select in place of an expert: the nearest router, which sees every token."""
    parts = expert.split(".")
    for end in range(len(parts) - 1, -1, -1):
        around = ".".join((*parts[:end], ""))
        inside = (name for name in modules if name.startswith(around) and not name.startswith(expert) and name != ROOT)
        router = next((name for name in inside if _routes(name, modules[name])), None)
        if router is not None:
            return f"Select its router, which sees every token (sites={router!r}), or the module around both."
    return "Select its router, which sees every token, or the module around both (sites=)."


def _routes(name: str, module: nn.Module) -> bool:
    """Whether a module is called as the router of a mixture of experts is."""
    return name.rpartition(".")[2] in ("gate", "router") or type(module).__name__.endswith(("Router", "Gate"))
