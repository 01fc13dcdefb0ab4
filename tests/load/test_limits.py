"""A limit takes each class's share."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from probekit import load
from probekit.errors import DataError
from probekit.load.limits import Limit


@given(st.lists(st.integers(0, 6), min_size=1, max_size=80), st.integers(1, 90), st.integers(0, 3))
@settings(max_examples=200)
def test_each_class_gets_its_share(labels: list[int], limit: int, seed: int) -> None:
    rows = Limit(limit, "stratified", seed).rows(len(labels), labels)
    if limit >= len(labels):
        assert rows is None
        return
    assert rows is not None
    assert len(rows) == len(set(rows.tolist())) == limit
    assert (np.diff(rows) > 0).all()
    counts, taken = np.bincount(labels, minlength=7), np.bincount(np.array(labels)[rows], minlength=7)
    exact = counts * limit / len(labels)
    classes = int((counts > 0).sum())
    if limit >= classes:
        assert ((taken > 0) == (counts > 0)).all()  # none is left out
    raised = int(((exact < 1) & (counts > 0)).sum())  # a rare class that gets one takes it from the others
    assert (np.abs(taken - exact) < 1 + raised).all()


def test_the_draw_depends_on_the_seed_alone() -> None:
    labels = np.arange(100) % 4
    one, again, other = (Limit(20, "stratified", seed).rows(100, labels) for seed in (1, 1, 2))
    assert np.array_equal(one, again)
    assert not np.array_equal(one, other)
    assert Limit(3, "first").rows(10, None).tolist() == [0, 1, 2]  # type: ignore[union-attr]


def test_equal_classes_are_left_out_at_random() -> None:
    rows = [Limit(10, "stratified", seed).rows(1000, np.arange(1000)) for seed in range(20)]
    assert np.mean([row.mean() for row in rows if row is not None]) == pytest.approx(500, abs=100)


@pytest.mark.parametrize(("limit", "order"), [(0, "stratified"), (-1, "first"), (3, "last"), (2.5, "first")])
def test_what_is_no_limit(limit: object, order: object) -> None:
    with pytest.raises(DataError):
        load.dataset("digits", limit=limit, limit_order=order)  # type: ignore[arg-type]


def test_samples_keep_their_numbers() -> None:
    digits, all_digits = load.dataset("digits", limit=30, seed=3), load.dataset("digits")
    assert np.bincount(digits.targets).tolist() == [3] * 10
    for index, row in enumerate(digits.sample_columns["sample_id"]):
        assert digits[index][1] == all_digits[row][1]
        assert (digits[index][0] == all_digits[row][0]).all()
