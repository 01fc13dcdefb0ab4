"""τ-dormant nodes by the score of Sokar et al.; none of it is what `dead` counts."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from probekit.errors import PluginError
from probekit.metrics import Dead, Dormant, State

Stream = Callable[..., State]


@pytest.mark.parametrize("tau", [0.0, 0.025, 0.5])
def test_the_score_is_relative_to_the_mean_of_the_site(stream: Stream, tau: float) -> None:
    rng = np.random.default_rng(0)
    x, y = np.maximum(rng.normal(size=(400, 30)), 0) * np.logspace(-3, 1, 30), rng.integers(0, 2, 400)
    x[:, 4] = 0
    found = Dormant(tau).finalize(stream(Dormant(tau), x.astype(np.float32), y, 2, (100,)))
    score = np.abs(x).mean(0) / np.abs(x).mean(0).mean()
    np.testing.assert_allclose(found["dormant_score"][1], score, rtol=1e-6)
    assert found["dormant"][1] == (score <= tau).sum()
    assert found["dormant_share"][1] == (score <= tau).mean()
    assert (found["dormant"][1] == Dead().finalize(stream(Dead(), x, y, 2))["dead"][1]) == (tau == 0)


def test_a_silent_site_is_dormant_and_one_without_samples_is_not_known(stream: Stream) -> None:
    silent = Dormant().finalize(stream(Dormant(), np.zeros((5, 3)), np.zeros(5), 1))
    assert (silent["dormant"][1], silent["dormant_share"][1]) == (3, 1)
    assert np.isnan(silent["dormant_score"][1]).all()
    nothing = Dormant().finalize(stream(Dormant(), np.zeros((0, 3)), np.zeros(0), 1))
    assert nothing["dormant"][1] == 0
    assert np.isnan(nothing["dormant_share"][1])
    with pytest.raises(PluginError, match="tau must be a finite number of at least 0"):
        Dormant(tau=-1)
