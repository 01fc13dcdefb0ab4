from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn.datasets import load_digits

import probekit as pk
from probekit.recipes.relu_vs_sigmoid.data import split_arrays

NAMES = tuple("0123456789")


def digits() -> tuple[NDArray[Any], NDArray[Any]]:
    data = load_digits()
    return data.images, data.target


def test_subsets_are_stratified_and_whole() -> None:
    x, y = digits()
    split = split_arrays(x, y, NAMES, test_size=0.2, validation_size=0.15)
    rows = torch.cat([samples.index for samples in split.subsets])
    assert sorted(rows.tolist()) == list(range(len(y)))
    for samples in split.subsets:
        np.testing.assert_array_equal(samples.y, y[samples.index])
        expected = np.bincount(y) * len(samples) / len(y)
        assert np.abs(np.bincount(samples.y) - expected).max() < 1.01
    assert (split.features, split.classes, split.class_names) == (64, 10, NAMES)


def test_one_mean_and_deviation_for_grey_images() -> None:
    x, y = digits()
    split = split_arrays(x, y, NAMES)
    train = x[split.train.index]
    for samples in split.subsets:
        expected = (x[samples.index] - train.mean()) / train.std()
        assert (samples.x.dtype, samples.y.dtype) == (torch.float32, torch.int64)
        np.testing.assert_allclose(samples.x, expected.reshape(len(samples), -1), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("channel_axis", [1, 3])
def test_colour_images_are_scaled_by_channel(channel_axis: int) -> None:
    random = np.random.default_rng(0)
    colours = random.normal((10, 100, 200), (1, 20, 50), (90, 5, 4, 3)).clip(0, 255).astype(np.uint8)
    x = np.moveaxis(colours, 3, channel_axis)
    y = np.arange(90) % 3
    split = split_arrays(x, y, ("a", "b", "c"))
    for samples in split.subsets:
        values = samples.x.numpy().reshape(len(samples), *x.shape[1:])
        for channel in range(3):
            train = colours[split.train.index, :, :, channel].astype(float)
            expected = (colours[samples.index, :, :, channel] - train.mean()) / train.std()
            np.testing.assert_allclose(values.take(channel, channel_axis), expected, rtol=1e-4, atol=1e-5)


def test_a_test_set_of_its_own_is_kept_whole_and_scaled_like_training() -> None:
    x, y = digits()
    split = split_arrays(x[:1000], y[:1000], NAMES, x_test=x[1000:], y_test=y[1000:], validation_size=100)
    assert [len(samples) for samples in split.subsets] == [900, 100, 797]
    np.testing.assert_array_equal(split.test.y, y[1000:])
    train = x[:1000][split.train.index]
    np.testing.assert_allclose(split.test.x[0], (x[1000].ravel() - train.mean()) / train.std(), rtol=1e-4)


def test_the_seed_decides_the_split() -> None:
    x, y = digits()
    first, again, other = (split_arrays(x, y, NAMES, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(first.train.x, again.train.x)
    assert not torch.equal(first.test.index, other.test.index)


X, Y = np.random.default_rng(0).normal(size=(20, 4)), np.arange(20) % 2


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"y": Y[:-1]}, r"shape \(20, 4\) and their labels \(19,\)"),
        ({"x": X[:, 0]}, r"training samples have shape \(20,\)"),
        ({"y": Y + 1}, "labels are int64 from 1 to 2; expected integer codes from 0 to 1"),
        ({"y": Y.astype(float)}, "labels are float64"),
        ({"x": np.where(X[3, 2] == X, np.nan, X)}, "not finite"),
        ({"x": np.ones_like(X)}, "same value in every training sample"),
        ({"x_test": X}, "both x_test and y_test"),
        ({"x_test": X[:, :3], "y_test": Y}, r"test sample has shape \(3,\) and a training sample \(4,\)"),
        ({"y": np.r_[np.zeros(19, int), 1]}, "Can't hold out a test set of 0.2 from 20 samples"),
        ({"validation_size": 40}, "Can't hold out a validation set of 40 from 16 samples"),
    ],
)
def test_arrays_that_do_not_fit(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(pk.errors.DataError, match=message):
        split_arrays(**{"x": X, "y": Y, "class_names": ("a", "b"), **changed})
