"""Sites whose rows are tokens: a length of their own, and the columns of their samples beside each row."""

from collections import OrderedDict

import numpy as np
import pytest
import torch
import xarray as xr
from torch import nn

import probekit as pk
from tests.models import TokenLayers
from tests.stores import opened

SAMPLES, POSITIONS, WIDTH = 23, 7, 5


def encoder():
    torch.manual_seed(0)
    return TokenLayers(OrderedDict(embed=nn.Embedding(50, WIDTH), mix=nn.Linear(WIDTH, 4)))


def texts(left=False):
    rng = np.random.default_rng(1)
    lengths = rng.integers(1, POSITIONS + 1, SAMPLES)
    ids, mask = np.zeros((SAMPLES, POSITIONS), np.int64), np.zeros((SAMPLES, POSITIONS), np.int64)
    for row, length in enumerate(lengths):
        real = slice(POSITIONS - length, None) if left else slice(0, length)
        ids[row, real] = np.random.default_rng(row).integers(1, 50, length)
        mask[row, real] = 1
    return {"input_ids": ids, "attention_mask": mask, "label": np.arange(SAMPLES) % 3, "split": ["a", "bc"] * 11 + [""]}


def capture(out, data, **options):
    options = {"columns": {"split": "split"}, "batch_size": 4, "reduce": {"mix": "tokens", "embed": "mean"}} | options
    return pk.capture(encoder(), data, out, sites=["mix", "embed"], **options)


def by_hand(data):
    """The rows of the site `mix`, and the sample and position of each."""
    with torch.no_grad():
        out = encoder()(torch.from_numpy(data["input_ids"]), None).numpy()
    sample, position = np.nonzero(data["attention_mask"])
    return out[sample, position], sample, np.concatenate([np.arange(n) for n in data["attention_mask"].sum(1)])


@pytest.mark.parametrize("left", [False, True])
@pytest.mark.parametrize("memory", ["256MiB", 1200, 900])  # one chunk; chunks that end within a batch; of few rows
def test_each_real_token_is_a_row_with_the_columns_of_its_sample(tmp_path, left, memory):
    data = texts(left)
    tree = capture(tmp_path / "a.zarr", data, memory=memory)
    rows, sample, position = by_hand(data)
    mix = tree["mix"]
    assert mix["activation"].dims == ("row", "node")
    np.testing.assert_allclose(mix["activation"].values, rows, rtol=1e-6)
    for name, expected in {
        "sample_id": sample,
        "position": position,
        "label": data["label"][sample],
        "split": np.array(data["split"])[sample],
    }.items():
        np.testing.assert_array_equal(mix[name].values, expected)
    assert tree["embed"]["activation"].shape == (SAMPLES, WIDTH)
    np.testing.assert_array_equal(tree["embed"]["label"].values, data["label"])


def test_plain_xarray_opens_it(tmp_path):
    ours = capture(tmp_path / "a.zarr", texts(), memory=1200)
    for consolidated in (True, False):
        plain = xr.open_datatree(tmp_path / "a.zarr", engine="zarr", consolidated=consolidated)
        np.testing.assert_array_equal(plain["mix"]["activation"].values, ours["mix"]["activation"].values)
        np.testing.assert_array_equal(plain["mix"]["label"].values, ours["mix"]["label"].values)


def test_the_store_does_not_depend_on_the_memory_but_in_its_chunks(tmp_path):
    xr.testing.assert_identical(
        capture(tmp_path / "a.zarr", texts(), memory=900)["mix"].to_dataset().load(),
        capture(tmp_path / "b.zarr", texts())["mix"].to_dataset().load(),
    )


def test_a_prefix_of_samples_has_the_tokens_of_just_those(tmp_path):
    data, out = texts(), tmp_path / "a.zarr"
    seen = []

    def batches():
        for start in range(0, SAMPLES, 4):
            yield {name: values[start : start + 4] for name, values in data.items()}
            if out.exists():
                tree, sample = opened(out), by_hand(data)[1]
                np.testing.assert_array_equal(tree["mix"]["sample_id"].values, sample[sample < tree.sizes["sample"]])
                seen.append(tree.sizes["sample"])

    capture(out, batches(), memory=900)
    assert len(set(seen)) > 2


def test_tokens_are_measured_by_the_label_of_their_sample(tmp_path):
    data = texts()
    capture(tmp_path / "a.zarr", data, memory=1200)
    with pytest.warns(UserWarning, match="sparsity would count each position, and site 'embed' has only the mean of 7"):
        found = pk.measure(tmp_path / "a.zarr", ["median", "sparsity", "mean"])
    rows, sample, _ = by_hand(data)
    for label in range(3):
        ours = rows[data["label"][sample] == label]
        np.testing.assert_allclose(found["mix"]["median"].sel(label=label), np.median(ours, axis=0), rtol=1e-6)
        np.testing.assert_allclose(found["mix"]["mean"].sel(label=label), ours.mean(axis=0), rtol=1e-5)
    assert found["embed"]["median"].shape == (3, WIDTH)
    by_split = pk.measure(tmp_path / "a.zarr", "median", by="split", sites="mix")
    ours = rows[np.array(data["split"])[sample] == "bc"]
    np.testing.assert_allclose(by_split["mix"]["median"].sel(label="bc"), np.median(ours, axis=0), rtol=1e-6)
