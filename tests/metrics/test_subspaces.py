"""Procrustes, SVCCA and PWCCA, against scipy and the samples' own decompositions."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy.linalg import orthogonal_procrustes
from scipy.spatial import procrustes

from probekit.errors import PluginError
from probekit.metrics import PWCCA, SVCCA, Procrustes, Spec
from probekit.metrics._kernels.shuffled_subspaces import number_of_draws, shuffled_products

METRICS = [Procrustes(), SVCCA(), PWCCA()]


def table(metric, x, cuts=(1, 50)):
    """The table of the sites `x`, whose samples come in batches."""
    sites = [torch.from_numpy(np.ascontiguousarray(each)) for each in x]
    state = metric.init([Spec(each.shape[1], 1, each.dtype, each.device) for each in sites])
    for start, stop in pairwise([0, *cuts, len(x[0])]):
        state = metric.update(state, [each[start:stop] for each in sites], torch.zeros(stop - start, dtype=torch.int64))
    dims, found = metric.finalize(state)[metric.name]
    assert dims == ("site", "site_b")
    return found


@pytest.fixture(scope="module")
def sites():
    """A site, one that partly repeats it, and an unrelated one far from 0; of different widths."""
    rng = np.random.default_rng(0)
    first = rng.normal(size=(300, 8)) * np.geomspace(1, 0.05, 8)
    second = first[:, :5] @ rng.normal(size=(5, 6)) + 0.3 * rng.normal(size=(300, 6))
    return [first, second, rng.normal(size=(300, 12)) + 100]


def centred(x):
    return (x - x.mean(0)) / np.linalg.norm(x - x.mean(0))


def test_procrustes_is_that_of_scipy(sites):
    found = table(Procrustes(corrected=False), sites)
    for a, x in enumerate(sites):
        for b, y in enumerate(sites):
            width = max(x.shape[1], y.shape[1])
            x_, y_ = (np.pad(centred(each), ((0, 0), (0, width - each.shape[1]))) for each in (x, y))
            rotation, shared = orthogonal_procrustes(x_, y_)
            np.testing.assert_allclose(found[a, b], np.linalg.norm(x_ @ rotation - y_), atol=1e-7)
            np.testing.assert_allclose(1 - shared**2, procrustes(x_ + 3, 5 * y_)[2], atol=1e-9)
    np.testing.assert_array_equal(np.diag(found), 0)
    np.testing.assert_array_equal(found, found.T)


def of_samples(x, share):
    """The samples along the principal directions that hold the share of the variance, scaled to length 1."""
    u, s, _ = np.linalg.svd(x - x.mean(0), full_matrices=False)
    kept = np.searchsorted(np.cumsum(s**2), share * (s**2).sum() * (1 - 1e-12)) + 1
    return u[:, :kept]


@pytest.mark.parametrize("share", [0.9, 0.99, 1.0])
def test_svcca_and_pwcca_are_those_of_the_samples(sites, share):
    found = {metric.name: table(metric, sites) for metric in (SVCCA(share, False), PWCCA(share, False))}
    for a, x in enumerate(sites):
        for b, y in enumerate(sites):
            if a == b:
                continue
            basis, other = of_samples(x, share), of_samples(y, share)
            u, correlations, _ = np.linalg.svd(basis.T @ other, full_matrices=False)
            weights = np.abs((basis @ u).T @ (x - x.mean(0))).sum(1)
            np.testing.assert_allclose(found["svcca"][a, b], correlations.mean(), rtol=1e-8)
            np.testing.assert_allclose(found["pwcca"][a, b], np.average(correlations, weights=weights), rtol=1e-8)
    for each in found.values():
        np.testing.assert_array_equal(np.diag(each), 1)


def test_what_each_ignores():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(200, 5)) * np.arange(1, 6)
    turned = x @ np.linalg.qr(rng.normal(size=(5, 5)))[0] * 1e-3 + 7
    mapped = x @ rng.normal(size=(5, 5))
    np.testing.assert_allclose(table(Procrustes(), [x, turned]), 0, atol=1e-6)
    np.testing.assert_allclose(table(SVCCA(1.0), [x, mapped]), 1, rtol=1e-9)
    np.testing.assert_allclose(table(PWCCA(), [x, mapped]), 1, rtol=1e-9)
    assert table(Procrustes(), [x, mapped])[0, 1] > 0.1


@pytest.mark.parametrize("metric", METRICS, ids=repr)
@pytest.mark.parametrize("value", [0.1, np.inf])
def test_a_site_without_spread_or_with_infinities_is_like_none(metric, value):
    x = [np.random.default_rng(n).normal(size=(60, 4)) for n in range(3)]
    x[1][44 if np.isinf(value) else slice(None), 2 if np.isinf(value) else slice(None)] = value
    found = np.isnan(table(metric, x))
    np.testing.assert_array_equal(found, [[False, True, False], [True] * 3, [False, True, False]])


@pytest.mark.parametrize("metric", [SVCCA(1.0, False), PWCCA(corrected=False)], ids=repr)
def test_no_more_samples_than_directions_say_nothing(metric):
    rng = np.random.default_rng(0)
    x = [rng.normal(size=(13, nodes)) for nodes in (6, 7)]
    np.testing.assert_array_equal(np.isnan(table(metric, x, (5,))), [[False, True], [True, True]])
    more = [rng.normal(size=(14, nodes)) for nodes in (6, 7)]
    assert 0 < table(metric, more, (5,))[0, 1] < 1


@pytest.mark.parametrize("metric", METRICS, ids=repr)
@pytest.mark.parametrize(("samples", "nodes"), [(10, 12), (50, 8), (180, 8), (300, 8)])
def test_unrelated_sites_have_what_says_nothing(metric, samples, nodes):
    neutral = np.sqrt(2) if metric.name == "procrustes" else 0
    found, plain = [], []
    for seed in range(20):
        rng = np.random.default_rng(seed)
        x = [rng.normal(size=(samples, nodes)).clip(min=0) for _ in "ab"]
        found.append(table(metric, x, (4,))[0, 1])
        plain.append(table(replace(metric, corrected=False), x, (4,))[0, 1])
    if metric.name != "procrustes" and samples == 10:
        assert np.isnan(found).all()
    else:
        assert abs(np.mean(found) - neutral) < np.std(found)
        assert abs(np.mean(plain) - neutral) > 5 * abs(np.mean(found) - neutral)


@pytest.mark.parametrize(("directions", "others", "freedom"), [(6, 4, 30), (30, 20, 40), (12, 9, 12)])
def test_what_chance_gives_is_what_shuffles_give(directions, others, freedom):
    rng = np.random.default_rng(0)
    x, y = rng.exponential(size=(freedom + 1, directions)), rng.normal(size=(freedom + 1, others))
    bases = [np.linalg.svd(each - each.mean(0), full_matrices=False)[0] for each in (x, y)]
    shuffled = [np.linalg.svd(bases[0].T @ bases[1][rng.permutation(freedom + 1)])[1] for _ in range(200)]
    number = number_of_draws(directions, others)
    drawn = list(shuffled_products(directions, others, freedom, torch.zeros(1, dtype=torch.float64), number))
    assert all(each.shape == (directions, others) for each in drawn)
    found = torch.stack([torch.linalg.svdvals(each) for each in drawn]).mean(0)
    np.testing.assert_allclose(found, np.mean(shuffled, 0), atol=3 * np.std(shuffled, 0).max() / np.sqrt(len(drawn)))


def test_a_rotated_copy_is_no_further_for_being_corrected():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(9, 20))
    turned = x @ np.linalg.qr(rng.normal(size=(20, 20)))[0]
    np.testing.assert_allclose(table(Procrustes(), [x, turned], (4,)), 0, atol=1e-6)
    assert np.isnan(table(Procrustes(), [x[:2], turned[:2]], ())[0, 1])


def test_a_share_that_is_none_is_refused():
    with pytest.raises(
        PluginError, match=r"SVCCA\(variance=1.5\): variance must be a finite number above 0 and at most 1"
    ):
        SVCCA(1.5)
