import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from probekit.batches import Batches
from probekit.errors import DataError

X, Y = torch.arange(14.0).reshape(7, 2), torch.tensor([0, 1, 2, 0, 1, 2, 0])


class Stream(IterableDataset):
    def __iter__(self):
        yield from zip(X, Y.tolist(), strict=True)


class Loadable(torch.utils.data.Dataset):
    classes = ("cat", "dog", "eel")

    def __len__(self):
        return 7

    def __getitem__(self, index):
        return X[index], int(Y[index])


SOURCES = {
    "tensors": lambda: (X, Y),
    "tensor dataset": lambda: TensorDataset(X, Y),
    "dataset": Loadable,
    "loader": lambda: DataLoader(TensorDataset(X, Y), batch_size=3),
    "iterable dataset": Stream,
    "pairs": lambda: iter([(X[:3], Y[:3]), (X[3:6], Y[3:6].tolist()), (X[6:], Y[6:].numpy())]),
    "lists": lambda: [[X[:3], Y[:3]], [X[3:], Y[3:]]],
}


@pytest.mark.parametrize("source", SOURCES.values(), ids=SOURCES.keys())
def test_every_source_gives_all_samples_in_order(source):
    batches = list(Batches(source(), batch_size=3))
    assert torch.equal(torch.cat([batch.inputs for batch in batches]), X)
    assert np.array_equal(np.concatenate([batch.labels for batch in batches]), Y)
    assert sum(batch.rows for batch in batches) == 7


@pytest.mark.parametrize(
    ("name", "rows", "count"),
    [("tensors", 7, 3), ("dataset", 7, 3), ("loader", 7, 3), ("pairs", None, None), ("lists", None, 2)],
)
def test_the_number_of_samples_is_told_where_it_is_known(name, rows, count):
    batches = Batches(SOURCES[name](), batch_size=3)
    assert (batches.rows, batches.count) == (rows, count)


def test_class_names_come_from_the_data_set():
    assert Batches(Loadable()).class_names == ("cat", "dog", "eel")
    assert Batches(DataLoader(Loadable())).class_names == ("cat", "dog", "eel")
    assert Batches((X, Y)).class_names is None


def test_dicts_are_inputs_by_name_and_their_label_is_taken_out():
    [batch] = Batches([{"x": X, "mask": X > 3, "labels": Y}])
    assert set(batch.inputs) == {"x", "mask"}
    assert np.array_equal(batch.labels, Y)


@pytest.mark.parametrize("data", [X, [X], [(X,)], [{"x": X}]], ids=["tensor", "batches", "one-tuples", "dicts"])
def test_data_without_labels_have_none(data):
    [batch] = Batches(data)
    assert batch.labels is None
    assert batch.rows == 7


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (3, "int is no data"),
        ([(X, Y[:5])], r"Batch 0 has 7 samples, and labels of shape \(5,\)"),
        ([(X, Y), (X, Y.float())], "labels of batch 1"),
        ([(X, Y - 1)], "integers from 0"),
        ([(X, Y), X], "Batch 1 has no labels"),
        ([{"a": X, "b": X[:3]}], r"different numbers of samples: \[3, 7\]"),
        (["text"], "holds no tensor"),
        ((X, Y[:3]), r"different numbers of samples: \[7, 3\]"),
    ],
)
def test_data_that_do_not_fit_are_an_error_that_names_the_batch(data, message):
    with pytest.raises(DataError, match=message):
        list(Batches(data))


def test_a_batch_size_below_one_is_refused():
    with pytest.raises(DataError, match="at least 1"):
        Batches(X, batch_size=0)
