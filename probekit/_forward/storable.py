"""Whether a store can keep what a site gives: numbers in order, of a dtype that files know."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from probekit._probe.site_table import Site
from probekit._probe.tensor_kinds import Unusual, unusual
from probekit.errors import SiteError

__all__ = ["check_storable", "dtype_on_disk"]


def check_storable(site: Site, tensor: Tensor) -> None:
    """Raise SiteError where `tensor`, which is to be kept of a site, isn't an ordinary one."""
    kind = unusual(tensor)
    if kind is not None:
        raise _unstorable(site, kind)


def dtype_on_disk(site: Site, dtype: torch.dtype) -> np.dtype[Any]:
    """The dtype in which values of a site are stored.

    Raises:
        SiteError: there is none.
    """
    # bfloat16, which zarr can't store, fits exactly into float32.
    known = torch.float32 if dtype == torch.bfloat16 else dtype
    try:
        return np.dtype(torch.empty((), dtype=known).numpy().dtype)
    except TypeError as error:
        conversion = "t.to(torch.complex64)" if dtype.is_complex else "t.float()"
        raise _unstorable(site, Unusual(f"values of dtype {dtype}", conversion)) from error


def _unstorable(site: Site, kind: Unusual) -> SiteError:
    return SiteError(
        f"{site.name} ({site.type}) gives {kind.what}. That can't be kept as it is. Convert it: "
        f"reduce={{{site.name!r}: lambda t: {kind.conversion}}}; or select other sites (sites=, exclude=).",
        arguments=("reduce", "sites", "exclude"),
    )
