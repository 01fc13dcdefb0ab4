"""Values whose squares float64 can't hold give the right numbers or none, and no others."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

import probekit as pk
from probekit import plugins
from probekit.errors import ProbekitError

ANY_SIZE = {"alignment", "uniformity", "wasserstein_mean", "ks_mean", "overlap", "mutual_information", "mean", "median"}


def found(name: str, scale: float) -> dict[str, np.ndarray]:
    x = np.abs(np.random.default_rng(0).normal(size=(60, 3))) + (np.arange(60) % 2)[:, None]
    site = xr.Dataset({"activation": (("sample", "node"), scale * x)}, {"label": ("sample", np.arange(60) % 2)})
    of_site = pk.measure(site, name)["activation"].data_vars.items()
    return {str(name): each.values for name, each in of_site if each.dtype.kind == "f"}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", sorted(plugins.find(plugins.METRICS)))
@pytest.mark.parametrize("scale", [2.0**500, 2.0**700])
def test_no_number_is_wrong(name: str, scale: float) -> None:
    try:
        usual = found(name, 1.0)
    except ProbekitError:
        pytest.skip("it needs something else")
    for variable, values in found(name, scale).items():
        if variable == "linear_probe_alpha":  # which classifier there is where none can be
            continue
        unlike = [
            ~np.isclose(values, times * usual[variable], rtol=1e-6) & np.isfinite(values) for times in (1.0, scale)
        ]
        squared = np.isclose(values / scale / scale, usual[variable], rtol=1e-6)  # a variance
        assert not (unlike[0] & unlike[1] & ~squared).any(), variable
        if variable in ANY_SIZE:
            assert np.isfinite(values).all()
