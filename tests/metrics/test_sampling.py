"""Which rows chance chooses."""

from __future__ import annotations

import numpy as np

from probekit.metrics._kernels.row_sampling import draws


def test_a_row_has_its_number_whatever_other_rows_there_are() -> None:
    every = draws(np.arange(1000), 3)
    some = np.array([0, 5, 5, 998])
    np.testing.assert_array_equal(draws(some, 3), every[some])
    np.testing.assert_array_equal(draws(np.arange(2000), 3)[:1000], every)
    assert draws(np.arange(0), 3).shape == (0,)


def test_numbers_are_even_over_0_to_1_and_differ_with_the_seed() -> None:
    found = draws(np.arange(100_000), 0)
    assert 0 <= found.min() < found.max() < 1
    np.testing.assert_allclose(np.histogram(found, 10, (0, 1))[0], 10_000, atol=5 * np.sqrt(10_000))
    assert abs(np.corrcoef(found, draws(np.arange(100_000), 1))[0, 1]) < 5 / np.sqrt(100_000)


def test_it_is_apart_from_what_the_seed_makes_elsewhere() -> None:
    made = np.random.default_rng(0).random(100_000)
    assert abs(np.corrcoef(draws(np.arange(100_000), 0), made)[0, 1]) < 5 / np.sqrt(100_000)
