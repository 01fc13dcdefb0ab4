"""Results record whether values are corrected and in how many bins, and the summary says it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import xarray as xr
from torch import nn

import probekit as pk

X, Y = np.random.default_rng(0).normal(size=(150, 4)).clip(min=0).astype(np.float32), np.arange(150) % 3
METRICS = ["overlap", "mutual_information:corrected=False", "entropy:bins=12", "participation_ratio", "mean", "ks"]
# 2 ⌈√(2n) / 2⌉ bins for classes of 50
EXPECTED = {
    "overlap": (1, 10, "Corrected for few samples, in 10 bins."),
    "mutual_information": (0, 10, "Not corrected for few samples, in 10 bins."),
    "entropy": (1, 12, "Corrected for few samples, in 12 bins."),
    "participation_ratio": (1, None, "Corrected for few samples."),
    "ks_mean": (1, None, "Corrected for few samples."),
    "mean": (None, None, "."),
}


@pytest.mark.parametrize("live", [False, True])
def test_results_say_how_they_were_estimated(live: bool) -> None:
    site = xr.Dataset({"activation": (("sample", "node"), X)}, {"label": ("sample", Y)})
    data = torch.from_numpy(X), torch.from_numpy(Y)
    found = (
        pk.measure_live(nn.Sequential(nn.Identity()), data, METRICS, sites="0") if live else pk.measure(site, METRICS)
    )
    (group,) = found.children.values()
    notes = {note.partition(" ")[0].rstrip(".:"): note for note in pk.summary(found).notes}
    for variable, (corrected, bins, words) in EXPECTED.items():
        attrs = group[variable].attrs
        assert (attrs.get("corrected"), attrs.get("bins")) == (corrected, bins), variable
        assert notes[attrs["metric"]].endswith(words), variable
    assert group["overlap_rest"].attrs["bins"] == 10
    assert pk.summary(found).to_dataframe().set_index("metric")["estimate"]["overlap"].endswith("in 10 bins")
