import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader, IterableDataset, RandomSampler, Subset, TensorDataset

from probekit._data.batches import Batches
from probekit.errors import DataError

X, Y = torch.arange(14.0).reshape(7, 2), torch.tensor([0, 1, 2, 0, 1, 2, 0])
Z = torch.arange(21.0).reshape(7, 3)
NAMES = ["cat", "dog", "cat", "eel", "dog", "cat", "cat"]
CODES = [0, 1, 0, 2, 1, 0, 0]  # of NAMES, by first appearance


class Stream(IterableDataset):
    def __iter__(self):
        yield from zip(X, Y.tolist(), strict=True)


class Loadable(torch.utils.data.Dataset):
    classes = ("cat", "dog", "eel")

    def __len__(self):
        return 7

    def __getitem__(self, index):
        return X[index], int(Y[index])


class Doubled(TensorDataset):
    """Gives other samples than its tensors hold."""

    def __getitem__(self, index):
        x, y = super().__getitem__(index)
        return x * 2, y


def dicts(**more):
    return [{"x": X[:3], **{k: v[:3] for k, v in more.items()}}, {"x": X[3:], **{k: v[3:] for k, v in more.items()}}]


def column(data, name="label", **options):
    """A column of all samples, from batches of at most three."""
    return np.concatenate([batch.columns[name] for batch in Batches(data, batch_size=3, **options)])


SOURCES = {
    "tensors": lambda: (X, Y),
    "arrays": lambda: (X.numpy(), Y.numpy()),
    "tensor and list": lambda: (X, Y.tolist()),
    "dict of tensors": lambda: {"x": X, "label": Y},
    "dict of arrays and lists": lambda: {"x": X.numpy(), "labels": Y.tolist()},
    "tensor dataset": lambda: TensorDataset(X, Y),
    "dataset": Loadable,
    "loader": lambda: DataLoader(TensorDataset(X, Y), batch_size=3),
    "iterable dataset": Stream,
    "pairs": lambda: iter([(X[:3], Y[:3]), (X[3:6], Y[3:6].tolist()), (X[6:], Y[6:].numpy())]),
    "array pairs": lambda: iter([(X[:3].numpy(), Y[:3]), (X[3:].numpy(), Y[3:])]),
    "lists": lambda: [[X[:3], Y[:3]], [X[3:], Y[3:]]],
    "dicts": lambda: dicts(label=Y),
}


@pytest.mark.parametrize("source", SOURCES.values(), ids=SOURCES.keys())
def test_every_source_gives_all_samples_in_order(source):
    batches = list(Batches(source(), batch_size=3))
    inputs = [batch.inputs["x"] if isinstance(batch.inputs, dict) else batch.inputs for batch in batches]
    assert torch.equal(torch.cat(inputs), X)
    assert np.array_equal(np.concatenate([batch.labels for batch in batches]), Y)
    assert {batch.labels.dtype for batch in batches} == {np.dtype(np.int64)}
    assert [len(x) for x in inputs] == [batch.rows for batch in batches]


def test_a_data_set_that_changes_what_its_tensors_hold_is_asked_for_its_samples():
    assert torch.equal(torch.cat([batch.inputs for batch in Batches(Doubled(X, Y), batch_size=3)]), X * 2)


@given(cuts=st.lists(st.integers(0, 7), max_size=4).map(sorted))
def test_no_split_into_batches_changes_labels_ids_or_columns(cuts):
    edges = list(zip([0, *cuts], [*cuts, 7], strict=True))
    data = [{"x": X[a:b], "y": NAMES[a:b], "id": Z[a:b, 0].int()} for a, b in edges]
    batches = list(Batches(data, labels="y", ids=None, columns={"fold": np.arange(7) % 2, "split": lambda item: "a"}))
    assert [batch.rows for batch in batches] == [b - a for a, b in edges]
    joined = {
        name: np.concatenate([b.columns[name] for b in batches if b.rows]).tolist() for name in batches[0].columns
    }
    assert joined == {
        "label": CODES,
        "sample_id": Z[:, 0].tolist(),
        "fold": [0, 1, 0, 1, 0, 1, 0],
        "split": ["a"] * 7,
    }


@pytest.mark.parametrize(
    ("make", "rows", "count"),
    [
        (SOURCES["tensors"], 7, 3),
        (SOURCES["dataset"], 7, 3),
        (SOURCES["pairs"], None, None),
        (SOURCES["lists"], None, 2),
        (Stream, None, None),
        (lambda: DataLoader(Loadable(), batch_size=3, drop_last=True), None, 2),
        (lambda: DataLoader(Loadable(), batch_sampler=[[0, 1], [5]]), None, 2),
    ],
)
def test_the_number_of_samples_is_told_where_it_is_known(make, rows, count):
    batches = Batches(make(), batch_size=3)
    assert (batches.rows, batches.count) == (rows, count)


def test_inputs_keep_their_dtype_and_memory():
    for x in (X.double(), X.to(torch.bfloat16), Y):
        [batch] = Batches(x)
        assert batch.inputs.dtype == x.dtype
        assert batch.inputs.data_ptr() == x.data_ptr()
    array = X.double().numpy()
    [batch] = Batches(array)
    assert batch.inputs.dtype == torch.float64
    assert batch.inputs.data_ptr() == array.ctypes.data


@pytest.mark.parametrize(
    "change", [lambda x: x[::-1], lambda x: x.astype(">f4"), lambda x: np.broadcast_to(x[:1], x.shape)]
)
def test_arrays_that_torch_cannot_share_are_copied(change):
    array = change(X.numpy())
    batches = list(Batches(array, batch_size=3))
    assert np.array_equal(torch.cat([batch.inputs for batch in batches]).numpy(), array)


def test_a_read_only_file_is_never_written_into(tmp_path):
    np.save(tmp_path / "x.npy", X.numpy())
    for batch in Batches(np.load(tmp_path / "x.npy", mmap_mode="r"), batch_size=3):
        batch.inputs.zero_()  # as an in-place first layer would
    assert np.array_equal(np.load(tmp_path / "x.npy"), X)


# Labels


@pytest.mark.parametrize(
    ("data", "labels"),
    [
        (dicts(y=Y, label=1 - Y % 2), "y"),
        ([(Y, X)], 0),
        ([(X, Z, Y)], -1),
        ([(X, Y + 1)], lambda item: item[1] - 1),
        (dicts(label=Y + 1), lambda item: item["label"] - 1),
        ((X, Y + 1), Y),
        (X, Y.tolist()),
        (X, tuple(Y.tolist())),
        (X, Y.to(torch.uint8)),
        (dicts(), Y.numpy()),
    ],
)
def test_labels_are_where_labels_says(data, labels):
    codes = column(data, labels=labels)
    assert codes.dtype == np.int64
    assert np.array_equal(codes, Y)


def same(a, b):
    if isinstance(b, dict):
        return isinstance(a, dict) and a.keys() == b.keys() and all(same(a[key], b[key]) for key in b)
    if isinstance(b, tuple):
        return isinstance(a, tuple) and len(a) == len(b) and all(map(same, a, b))
    return torch.equal(a, b)


@pytest.mark.parametrize(
    ("item", "options", "expected"),
    [
        ((X, Y), {}, X),
        ((X, Y), {"labels": Y}, X),
        ((X, Y), {"labels": lambda item: item[1]}, X),
        ((X, Y), {"labels": False}, (X, Y)),
        ((X, Y), {"keep_labels": True}, (X, Y)),
        ((X, Z, Y), {"labels": 2}, (X, Z)),
        ((X, Y, Z), {"labels": 1}, (X, Z)),
        ((X, Z, Y), {"labels": False}, (X, Z, Y)),
        ((X, Y, Y), {"ids": 2}, X),
        ((X, Y, Y), {"columns": {"group": 2}}, X),
        (((X, Z), Y), {}, (X, Z)),
        (((X, Z),), {"labels": Y}, (X, Z)),
        (({"x": X, "id": Y}, Y), {}, {"x": X, "id": Y}),
        ({"x": X, "z": Z, "labels": Y}, {}, {"x": X, "z": Z}),
        ({"x": X, "labels": Y}, {"keep_labels": True}, {"x": X, "labels": Y}),
        ({"x": X, "labels": Y}, {"labels": False}, {"x": X, "labels": Y}),
        ({"x": X, "labels": Y}, {"labels": Y}, {"x": X}),
        ({"x": X, "fine": Y, "coarse": Y}, {"labels": "fine", "columns": {"c": "coarse"}}, {"x": X}),
        ({"x": X, "idx": Y}, {}, {"x": X}),
        ({"x": X, "idx": Y}, {"ids": False}, {"x": X, "idx": Y}),
        ({"x": X, "idx": Z}, {}, {"x": X, "idx": Z}),
    ],
)
def test_the_model_gets_what_is_no_label_id_or_column(item, options, expected):
    [batch] = Batches([item], **options)
    assert same(batch.inputs, expected)


@pytest.mark.parametrize("data", [X, [X], [(X,)], [{"x": X}], [X.numpy()]])
def test_data_without_labels_have_none(data):
    [batch] = Batches(data)
    assert batch.labels is None
    assert batch.columns == {}
    assert batch.rows == 7


@pytest.mark.parametrize(
    "names", [NAMES, np.array(NAMES), np.array(NAMES, dtype=object), tuple(NAMES)], ids=lambda n: type(n).__name__
)
def test_string_labels_are_numbered_as_they_appear(names):
    batches = Batches(list(X.split(3)), labels=names)
    seen = [(batch.labels.tolist(), batches.class_names) for batch in batches]
    assert seen == [
        ([0, 1, 0], ("cat", "dog")),
        ([2, 1, 0], ("cat", "dog", "eel")),
        ([0], ("cat", "dog", "eel")),
    ]
    assert [batch.labels.tolist() for batch in batches] == [codes for codes, _ in seen]  # the same the second time


def test_string_labels_in_memory_are_known_with_the_first_batch():
    batches = Batches((X, NAMES), batch_size=3)
    assert next(iter(batches)).labels.tolist() == [0, 1, 0]
    assert batches.class_names == ("cat", "dog", "eel")


@pytest.mark.parametrize("data", [(X, Y), (X, NAMES), {"x": X, "label": Y, "id": Y}, X.numpy()], ids=range(4))
@pytest.mark.parametrize("options", [{}, {"columns": {"all": range(7), "one": np.float64(0.5)}, "ids": NAMES}])
def test_what_is_in_memory_gives_the_batches_of_a_stream(data, options):
    def part(whole, rows):
        if isinstance(whole, dict):
            return {key: values[rows] for key, values in whole.items()}
        return tuple(values[rows] for values in whole) if isinstance(whole, tuple) else whole[rows]

    stream = [part(data, slice(start, start + 3)) for start in (0, 3, 6)]
    for ours, theirs in zip(Batches(data, batch_size=3, **options), Batches(stream, **options), strict=True):
        assert same(ours.inputs, theirs.inputs)
        assert (ours.rows, ours.start) == (theirs.rows, theirs.start)
        assert ours.columns.keys() == theirs.columns.keys()
        for name, column in theirs.columns.items():
            np.testing.assert_array_equal(ours.columns[name], column, strict=True)


def test_string_labels_are_looked_up_where_the_classes_have_names():
    assert column((X, NAMES), class_names=["eel", "dog", "cat"]).tolist() == [2, 1, 2, 0, 1, 2, 2]
    with pytest.raises(DataError, match=r"The labels hold 'eel', which is not among the 2 class names"):
        column((X, NAMES), class_names=["dog", "cat"])
    with pytest.raises(DataError, match=r"labels of batch 1 hold 'eel', which is not among the 2 class names"):
        list(Batches([(X[:3], NAMES[:3]), (X[3:], NAMES[3:])], class_names=["dog", "cat"]))


def test_class_names_come_from_the_data_set():
    for data in (Loadable(), DataLoader(Loadable()), DataLoader(Subset(Loadable(), [1, 2]))):
        assert Batches(data).class_names == ("cat", "dog", "eel")
    assert Batches((X, Y)).class_names is None
    assert Batches(Loadable(), class_names=["a", "b", "c"]).class_names == ("a", "b", "c")


@pytest.mark.parametrize("labels", [Y, lambda item: item[1], False])
def test_other_labels_do_not_take_over_the_data_sets_class_names(labels):
    assert Batches(Loadable(), labels=labels).class_names is None


def test_a_count_of_classes_or_an_array_of_features_is_no_class_names():
    data = Loadable()
    data.classes, data.features = 3, X
    assert Batches(data).class_names is None


# Ids and columns


@pytest.mark.parametrize("key", ["sample_id", "id", "idx"])
@pytest.mark.parametrize("ids", [Y + 100, NAMES, np.array(NAMES), (Y + 100).tolist()])
def test_sample_ids_are_kept_where_the_data_have_them(key, ids):
    assert np.array_equal(column(dicts(**{key: ids}), "sample_id"), np.asarray(ids))


def test_sample_ids_are_taken_from_where_ids_says():
    assert column([(X, Y, Z[:, 0].int())], "sample_id", ids=2).tolist() == Z[:, 0].tolist()
    assert column(X, "sample_id", ids=NAMES).tolist() == NAMES
    assert "sample_id" not in next(iter(Batches(dicts(id=Y), ids=False))).columns


@pytest.mark.parametrize(
    ("data", "given", "expected"),
    [
        (X, NAMES, NAMES),
        (X, Z[:, 0], Z[:, 0].tolist()),
        (X, Z[:, 0].to(torch.bfloat16), Z[:, 0].tolist()),
        (X, "train", ["train"] * 7),
        (X, 3, [3] * 7),
        (X, False, [False] * 7),
        (X, np.float32(0.5), [0.5] * 7),
        ((X, Y), "train", ["train"] * 7),
        ((X, Y, Z[:, 2]), 2, Z[:, 2].tolist()),
        (dicts(where=NAMES), "where", NAMES),
        (dicts(), 2.5, [2.5] * 7),
        (dicts(), lambda item: "train", ["train"] * 7),
        (dicts(), lambda item: item["x"][:, 0] > 5, (X[:, 0] > 5).tolist()),
    ],
)
def test_columns_are_a_key_an_index_a_callable_an_array_or_one_value(data, given, expected):
    values = column(data, "more", columns={"more": given})
    assert values.tolist() == expected
    assert values.dtype.kind in "ifbU"


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float16, np.float32])
def test_columns_have_one_of_four_dtypes(dtype):
    assert column(X, "more", columns={"more": np.ones(7, dtype)}).dtype in (np.int64, np.float64)


def test_an_attention_mask_stays_an_input():
    mask = Z > 4
    for data in ([{"input_ids": Z, "attention_mask": mask}], [({"input_ids": Z, "attention_mask": mask}, Y)]):
        [batch] = Batches(data)
        assert torch.equal(batch.inputs["attention_mask"], mask)


# What doesn't fit


def loader(**options):
    return DataLoader(Loadable(), batch_size=3, **options)


@pytest.mark.parametrize(
    ("data", "options", "message"),
    [
        (3, {}, "int is not data"),
        ("digits", {}, "str is not data"),
        ({"train": Loadable()}, {}, r"dict with the keys 'train'.*split"),
        ([(X, Y[:5])], {}, r"Batch 0 has 7 samples, and labels of shape \(5,\)"),
        (dicts(labels=Z), {}, r"Batch 0 has 3 samples, and labels of shape \(3, 3\).*labels=False"),
        ([(X, Y), (X, Y.float())], {}, "labels of batch 1"),
        ([(X, Y - 1)], {}, "labels of batch 0 go down to -1: give class codes, integers from 0"),
        ((X, Y - 1), {}, "The labels go down to -1"),
        ((X, Z), {}, r"The data have 7 samples, and labels of shape \(7, 3\)"),
        ((X, [*NAMES[:6], 3]), {}, "The labels are of dtype object, such as 3"),
        ([(X, Y), X], {}, "Batch 1 has no labels"),
        ([X, (X, Y)], {}, "Batch 1 has labels"),
        ([(X, Y), (X, NAMES)], {}, "labels of batch 1 are strings, unlike"),
        ([(X, [*NAMES[:6], 3])], {}, "labels of batch 0 are of dtype object"),
        ([(X, [[1], [2, 3]])], {}, "labels of batch 0 can't be made into an array"),
        ([{"a": X, "b": X[:3]}], {}, r"different numbers of samples: \[3, 7\]"),
        (["text"], {}, "Batch 0 is a str, and holds no tensor"),
        ([{"x": X, "text": np.array(NAMES)}], {}, r"Batch 0 holds an array of <U3 among the inputs.*columns="),
        ((X, Y[:3]), {}, r"different numbers of samples: \[7, 3\]"),
        (torch.tensor(1.0), {}, "different numbers of samples"),
        ([(X, Y, Z)], {}, r"Batch 0 is a tuple of 3 items, any of which may be the label.*labels=INDEX"),
        ((X, Z, Y), {"labels": Y}, r"tuple of 3 items, any of which"),
        ((X, Z), {"labels": Y}, r"Batch 0 is a pair, whose second item is not one label.*nest"),
        ([(X, Y)], {"labels": 2}, r"Batch 0 is a tuple of 2 items, and labels= asks for 2"),
        (dicts(y=Y), {"labels": "z"}, r"Batch 0 is a dict with the keys 'x', 'y', and labels= asks for 'z'"),
        (dicts(y=Y), {"labels": 1}, r"labels=1 can't be found in batch 0, which is a dict"),
        ((X, Y), {"labels": "y"}, r"labels='y' can't be found in batch 0, which is a tuple of 2 items"),
        (X, {"labels": Z}, r"labels= has shape \(7, 3\)"),
        (X, {"labels": 2.5}, r"labels= has shape \(\)"),
        (X, {"labels": True}, r"labels= has shape \(\)"),
        (dicts(), {"columns": {"split": "train"}}, "asks for 'train'. For one value for all samples"),
        ((X, Y), {"columns": {"fold": 1}}, "asks for 1 of batch 0, a pair, whose second item is the label"),
        ((X, Y), {"labels": 1, "columns": {"fold": 1}}, r"columns\['fold'\] asks for 1 of batch 0, which another"),
        (X, {"columns": {"label": Y}}, "columns has 'label'.*labels="),
        (X, {"columns": {"more": None}}, r"columns\['more'\] are of dtype object"),
        (X, {"columns": {"more": Z}}, r"columns\['more'\] has shape \(7, 3\)"),
        (X, {"columns": {"more": [2**63] * 7}}, "beyond int64"),
        (dicts(), {"columns": {"more": lambda item: [1, 2]}}, r"Batch 0 has 3 samples, and 'more' of shape \(2,\)"),
        ([(X, 1.0), (X, "a")], {"labels": False, "columns": {"more": 1}}, "Batch 1 has 'more' of dtype <U1"),
        ([*dicts(id=Y), {"x": X}], {}, "Batch 2 has no sample ids"),
        (X, {"batch_size": 0}, "at least 1"),
    ],
)
def test_data_that_do_not_fit_are_an_error_that_names_the_batch(data, options, message):
    with pytest.raises(DataError, match=message):
        list(Batches(data, **options))


@pytest.mark.parametrize("data", [(X, Y), Loadable(), loader()], ids=["tensors", "data set", "loader"])
@pytest.mark.parametrize("count", [5, 8])
def test_a_wrong_number_of_values_is_found_before_the_first_batch(data, count):
    with pytest.raises(DataError, match=f"labels= holds {count} values, and the data hold 7 samples"):
        Batches(data, labels=[0] * count)


@pytest.mark.parametrize("option", ["labels", "ids"])
def test_a_wrong_number_of_values_is_found_at_the_batch_where_they_end(option):
    batches = iter(Batches(dicts(), **{option: [1] * 5}))
    assert next(batches).rows == 3
    with pytest.raises(DataError, match=f"{option}= holds 5 values, .* batch 1 ends after 7"):
        next(batches)
    batches = iter(Batches(dicts(), **{option: [1] * 8}))
    assert [next(batches).rows, next(batches).rows] == [3, 4]
    with pytest.raises(DataError, match=f"{option}= holds 8 values, and the data hold 7 samples"):
        next(batches)


@pytest.mark.filterwarnings("ignore:No sample has the label")  # since one may be drawn twice, and another never
@pytest.mark.parametrize(
    "options", [{"shuffle": True}, {"sampler": RandomSampler(range(7))}, {"sampler": RandomSampler(range(7), True)}]
)
def test_values_in_order_are_refused_for_a_loader_that_shuffles(options):
    with pytest.raises(
        DataError, match="labels= holds the values of all samples in order, and the DataLoader shuffles"
    ):
        Batches(loader(**options), labels=Y)
    assert sorted(column(loader(**options)).tolist())  # its own labels go with their samples


def test_samples_of_several_sizes_or_kinds_ask_for_padding_or_a_transform():
    class Ragged(Loadable):
        def __getitem__(self, index):
            return X[0, : 1 + index % 2], 0

    class Objects(Loadable):
        def __getitem__(self, index):
            return object(), 0

    for data in (Ragged(), Objects()):
        with pytest.raises(DataError, match=r"can't be joined.*collate_fn"):
            list(Batches(data))
