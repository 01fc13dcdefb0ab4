"""Adding to a complete store: samples behind those that are there, and sites of the same samples."""

import numpy as np
import pytest
import torch
import xarray as xr
from torch import nn

import probekit as pk
from probekit.errors import DataError, StoreError
from tests.models import batches, mlp, samples
from tests.stores import chunks, files

X, Y = samples()
SMALL = 2 * 20 * 303 * 4 * 2  # chunk rows of 20
OPTIONS = {"sites": ["1", "2"], "batch_size": 10, "memory": SMALL}


@pytest.mark.parametrize("cut", [40, 50, 75])
def test_samples_are_put_after_those_that_are_there_to_the_same_chunks(tmp_path, cut):
    pk.capture(mlp(), (X, Y), tmp_path / "whole", **OPTIONS)
    pk.capture(mlp(), (X[:cut], Y[:cut]), tmp_path / "parts", **OPTIONS)
    tree = pk.capture(mlp(), (X[cut:], Y[cut:]), tmp_path / "parts", append="samples", **OPTIONS)
    whole = pk.open(tmp_path / "whole")
    for name in ("label", "sample_id", "class_name"):
        np.testing.assert_array_equal(tree[name].values, whole[name].values)
    np.testing.assert_allclose(tree["2"]["activation"].values, whole["2"]["activation"].values, rtol=1e-5, atol=1e-6)
    if cut % 10 == 0:  # the same batches
        assert chunks(tmp_path / "parts") == chunks(tmp_path / "whole")
    found = pk.info(tmp_path / "parts")
    assert (found.rows, found.complete, found.attrs["expected_rows"], found.attrs["start"]) == (95, True, 95, cut)


def test_samples_that_were_stopped_are_resumed_with_the_same_data(tmp_path):
    pk.capture(mlp(), (X[:50], Y[:50]), tmp_path / "a", **OPTIONS)
    with pytest.raises(KeyboardInterrupt):
        pk.capture(mlp(), batches(X[50:], Y[50:], stop=10), tmp_path / "a", append="samples", **OPTIONS)
    with pytest.raises(StoreError, match=r"isn't complete, so nothing can be added to it. Complete it first"):
        pk.capture(mlp(), (X[50:], Y[50:]), tmp_path / "a", append="samples", **OPTIONS)
    with pytest.raises(StoreError, match="the inputs of the first batch"):
        pk.capture(mlp(), (X, Y), tmp_path / "a", resume=True, **OPTIONS)
    pk.capture(mlp(), batches(X[50:], Y[50:]), tmp_path / "a", resume=True, **OPTIONS)
    pk.capture(mlp(), (X, Y), tmp_path / "whole", **OPTIONS)
    assert chunks(tmp_path / "a") == chunks(tmp_path / "whole")


def test_new_string_labels_are_numbered_behind_those_that_are_there(tmp_path):
    names = ["cat", "dog", "cat", "eel"]
    pk.capture(mlp(), (X[:4], names), tmp_path / "a", **OPTIONS)  # less than a batch, both times
    tree = pk.capture(
        mlp(), (X[:3], ["dog", "ant", "cat"]), tmp_path / "a", append="samples", **OPTIONS | {"batch_size": 4}
    )
    assert tree["label"].values.tolist() == [0, 1, 0, 2, 1, 3, 0]
    assert tree["class_name"].values.tolist() == ["cat", "dog", "eel", "ant"]


def test_sites_are_added_and_the_others_stay_as_they_are(tmp_path):
    pk.capture(mlp(), (X, Y), tmp_path / "a", sites="1", batch_size=10, memory=SMALL)
    before = chunks(tmp_path / "a")
    more = {"sites": ["0", "2"], "batch_size": 10, "append": "sites"}
    tree = pk.capture(mlp(), (X, Y), tmp_path / "a", reduce={"0": [1, 2]}, **more)
    assert before.items() <= chunks(tmp_path / "a").items()
    assert set(tree.children) == {"0", "1", "2"}
    with torch.no_grad():
        np.testing.assert_allclose(tree["2"]["activation"].values, mlp()(X), rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(tree["0"]["activation"].values, mlp()[0](X)[:, [1, 2]], rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(tree["2"]["label"].values, Y)
    plain = xr.open_datatree(tmp_path / "a", engine="zarr", consolidated=False)
    np.testing.assert_array_equal(plain["2"]["activation"].values, tree["2"]["activation"].values)
    assert pk.info(tmp_path / "a").attrs["sites"] == ["1", "0", "2"]
    with pytest.raises(StoreError, match="has '0', '2' already"):
        pk.capture(mlp(), (X, Y), tmp_path / "a", **more)


def test_sites_that_were_not_finished_leave_the_store_as_it_was(tmp_path):
    class Failing(nn.Sequential):
        def forward(self, x):
            if x[0, 0] == X[50, 0]:
                raise KeyboardInterrupt
            return super().forward(x)

    pk.capture(mlp(), (X, Y), tmp_path / "a", sites="1", batch_size=10, memory=SMALL)
    before = files(tmp_path / "a")
    failing = Failing(*mlp())
    Failing.__qualname__, Failing.__module__ = "Sequential", nn.Sequential.__module__
    options = {"sites": "2", "batch_size": 10, "append": "sites"}
    with pytest.raises(KeyboardInterrupt):
        pk.capture(failing, (X, Y), tmp_path / "a", **options)
    assert files(tmp_path / "a") == before
    for data, error, message in [
        ((X[:90], Y[:90]), StoreError, "the number of samples was 95 and is 90"),
        ((X, Y.flip(0)), DataError, "label of sample 0 is 2 and was 0"),
        (X, DataError, "The samples would have the columns sample_id, and .* has label, sample_id"),
    ]:
        with pytest.raises(error, match=message):
            pk.capture(mlp(), data, tmp_path / "a", **options)
        assert files(tmp_path / "a") == before


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"append": "rows"}, DataError, "append is 'rows'; it is 'samples' or 'sites'"),
        ({"append": "samples", "overwrite": True}, DataError, "Give one of them"),
        ({"append": "samples", "resume": True}, DataError, "Give one of them"),
        ({"append": "samples"}, StoreError, "There is no store at"),
    ],
)
def test_what_makes_no_sense_is_refused(tmp_path, options, error, message):
    with pytest.raises(error, match=message):
        pk.capture(mlp(), (X, Y), tmp_path / "a", **options)
    assert list(tmp_path.iterdir()) == []
