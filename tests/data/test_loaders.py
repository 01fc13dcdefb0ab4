"""Data sets of Hugging Face."""

import types

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from probekit._data.batches import Batches
from probekit.errors import DataError

X, Y = torch.arange(14.0).reshape(7, 2), torch.tensor([0, 1, 2, 0, 1, 2, 0])


NAMES = ["cat", "dog", "cat", "eel", "dog", "cat", "cat"]


class FakeHF:
    """What of `datasets.Dataset` probekit uses: lists of Python values, until a format makes them tensors."""

    def __init__(self, columns, features, format_type=None):
        self._columns, self.features, self.format = columns, features, {"type": format_type}

    def with_format(self, kind):
        assert kind == "torch"
        return FakeHF(self._columns, self.features, kind)

    def __len__(self):
        return 7

    def __getitem__(self, index):
        row = {key: values[index] for key, values in self._columns.items()}
        if self.format["type"] is None:
            return row
        return {key: value if isinstance(value, str) else torch.tensor(value) for key, value in row.items()}


FEATURES = {
    "label": types.SimpleNamespace(names=["no", "yes", "maybe"]),
    "coarse": types.SimpleNamespace(names=["low", "high"]),
    "x": types.SimpleNamespace(),
}


def fake(**options):
    columns = {"x": X.tolist(), "label": Y.tolist(), "coarse": (Y % 2).tolist(), "id": NAMES}
    return FakeHF(columns, FEATURES, **options)


def test_hugging_face_data_are_read_as_tensors_with_their_class_names_and_ids():
    batches = Batches(fake(), batch_size=3)
    assert (batches.rows, batches.class_names) == (7, ("no", "yes", "maybe"))
    found = list(batches)
    assert torch.equal(torch.cat([batch.inputs["x"] for batch in found]), X)
    assert np.array_equal(np.concatenate([batch.labels for batch in found]), Y)
    assert np.concatenate([batch.columns["sample_id"] for batch in found]).tolist() == NAMES
    assert set(found[0].inputs) == {"x", "coarse"}


def test_hugging_face_class_names_are_those_of_the_labels_asked_for():
    assert Batches(fake(), labels="coarse").class_names == ("low", "high")
    assert Batches(DataLoader(fake(format_type="torch")), labels="coarse").class_names == ("low", "high")
    assert Batches(fake(), labels="x").class_names is None
    assert Batches(fake(), labels=Y).class_names is None


def test_a_format_that_is_set_is_kept():
    formatted = fake(format_type="custom")
    formatted.with_format = None
    assert np.array_equal(np.concatenate([batch.labels for batch in Batches(formatted, batch_size=3)]), Y)


def test_real_hugging_face_data():
    datasets = pytest.importorskip("datasets")
    features = datasets.Features(
        x=datasets.Sequence(datasets.Value("float32")),
        label=datasets.ClassLabel(names=["no", "yes", "maybe"]),
        id=datasets.Value("string"),
    )
    data = datasets.Dataset.from_dict({"x": X.tolist(), "label": Y.tolist(), "id": NAMES}, features=features)
    assert Batches(data).rows == 7
    for each in (data, data.to_iterable_dataset(), data.with_format("torch")):
        batches = Batches(each, batch_size=3)
        found = list(batches)
        assert batches.class_names == ("no", "yes", "maybe")
        assert torch.equal(torch.cat([batch.inputs["x"] for batch in found]), X)
        assert np.array_equal(np.concatenate([batch.labels for batch in found]), Y)
        assert np.concatenate([batch.columns["sample_id"] for batch in found]).tolist() == NAMES
    narrow = data.with_format("torch", columns=["x", "label"])
    assert all(set(batch.columns) == {"label"} for batch in Batches(narrow))
    with pytest.raises(DataError, match="split"):
        Batches(datasets.DatasetDict(train=data))
