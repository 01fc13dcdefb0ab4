"""What one item of the data is: right, or asked; and the order of samples that values from outside need."""

import numpy as np
import pytest
import torch
import xarray as xr
import zarr
from torch import nn
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    DistributedSampler,
    IterableDataset,
    Sampler,
    SequentialSampler,
    Subset,
    TensorDataset,
    default_collate,
)

import probekit as pk
from probekit._data.batches import Batches
from probekit.errors import DataError, SiteError

X, Y = torch.arange(100.0).reshape(50, 2), np.arange(50) // 10


def rows(data, **options):
    return torch.cat([batch.inputs for batch in Batches(data, batch_size=8, **options)])


# Arrays of other libraries


def dask_array(array):
    return pytest.importorskip("dask.array").from_array(array, chunks=7)


LAZY = {
    "zarr": lambda array: zarr.array(array, chunks=(7, *array.shape[1:])),
    "dask": dask_array,
    "xarray": lambda array: xr.DataArray(array),
    "negative strides": lambda array: np.ascontiguousarray(array[::-1])[::-1],
    "big-endian": lambda array: array.astype(array.dtype.newbyteorder(">")),
}


@pytest.mark.parametrize("make", LAZY.values(), ids=LAZY)
def test_arrays_of_any_library_are_sliced(make):
    x = X.numpy()
    assert torch.equal(rows(make(x)), X)
    assert torch.equal(rows((make(x), make(Y))), X)
    labels = np.concatenate([batch.labels for batch in Batches({"x": make(x), "label": make(Y)}, batch_size=8)])
    np.testing.assert_array_equal(labels, Y)


def test_masked_arrays_and_tables_are_refused():
    with pytest.raises(DataError, match=r"masked array.*array\.filled\(value\)"):
        Batches(np.ma.masked_less(X.numpy(), 3))
    with pytest.raises(DataError, match=r"The data are a pandas\.DataFrame, of which some columns .*to_numpy\(\)"):
        Batches(pytest.importorskip("pandas").DataFrame({"a": [1.0]}))
    with pytest.raises(DataError, match=r"The data are a xarray\.Dataset"):
        Batches(xr.Dataset({"a": ("x", [1.0])}))


@pytest.mark.parametrize("vectors", [list(X), [v.numpy() for v in X], [torch.arange(3), torch.arange(3)]])
def test_a_list_of_vectors_is_asked_about(vectors):
    with pytest.raises(
        DataError, match=r"a list of \d+ vectors of shape \(\d,\)\. If each is a sample, give torch\.stack"
    ):
        Batches(vectors)


# Iterable data sets


class Items(IterableDataset):
    def __init__(self, items):
        self.items = items

    def __iter__(self):
        return iter(self.items)


@pytest.mark.parametrize(
    "items",
    [
        [(x, int(y)) for x, y in zip(X, Y, strict=True)],
        [(x, torch.tensor(y)) for x, y in zip(X, Y, strict=True)],
        [{"x": x, "label": int(y)} for x, y in zip(X, Y, strict=True)],
        list(zip(X.split(20), np.split(Y, [20, 40]), strict=True)),
        [{"x": x, "labels": y} for x, y in zip(X.split(20), np.split(Y, [20, 40]), strict=True)],
    ],
    ids=["pairs", "pairs of tensors", "dicts", "batches", "dicts of batches"],
)
def test_samples_and_batches_of_an_iterable_data_set_are_told_by_their_labels(items):
    found = list(Batches(Items(items), batch_size=8))
    inputs = [batch.inputs["x"] if isinstance(batch.inputs, dict) else batch.inputs for batch in found]
    assert torch.equal(torch.cat(inputs), X)
    np.testing.assert_array_equal(np.concatenate([batch.labels for batch in found]), Y)


@pytest.mark.parametrize("items", [list(X), list(X.split(20)), [(X[:2], X[2:4])] * 3])
def test_what_an_item_is_is_asked_where_nothing_tells(items):
    with pytest.raises(DataError, match=r"Whether an item of Items is a sample or a batch can't be told"):
        list(Batches(Items(items)))


def test_a_loader_says_what_an_item_is():
    assert torch.equal(rows(DataLoader(Items(list(X)), batch_size=8)), X)
    assert torch.equal(rows(DataLoader(Items(list(X.split(20))), batch_size=None)), X)


class Shared(Items):
    def __iter__(self):
        worker = torch.utils.data.get_worker_info()
        return iter(self.items[worker.id :: worker.num_workers])


def test_workers_that_repeat_the_data_are_refused():
    with pytest.raises(DataError, match="Several workers of the DataLoader give the same samples"):
        rows(DataLoader(Items(list(X)), batch_size=8, num_workers=2))
    assert len(rows(DataLoader(Shared(list(X)), batch_size=8, num_workers=2))) == 50


def test_a_plan_takes_nothing_of_a_generator():
    batches = iter(X.split(20))
    with pytest.raises(DataError, match="gives its batches once, and a plan would take the first"):
        pk.plan(nn.Identity(), batches)
    assert len(list(batches)) == 3


# The order of samples


class Backwards(Sampler):
    def __init__(self, data):
        self.data = data

    def __iter__(self):
        return reversed(range(len(self.data)))

    def __len__(self):
        return len(self.data)


class OwnBatches(BatchSampler):
    def __iter__(self):
        return reversed(list(super().__iter__()))


def by_size(samples):
    return default_collate(sorted(samples, key=lambda sample: -float(sample[0].sum())))


DATA = TensorDataset(X)
UNORDERED = {
    "DistributedSampler": lambda: DataLoader(DATA, 10, sampler=DistributedSampler(DATA, 1, 0)),
    "Backwards": lambda: DataLoader(DATA, 10, sampler=Backwards(DATA)),
    "OwnBatches": lambda: DataLoader(DATA, batch_sampler=OwnBatches(SequentialSampler(DATA), 10, False)),
    "collate_fn": lambda: DataLoader(DATA, 10, collate_fn=by_size),
    "shuffles": lambda: DataLoader(DATA, 10, shuffle=True),
}


@pytest.mark.parametrize("option", ["labels", "ids", "columns"])
@pytest.mark.parametrize("name", UNORDERED)
def test_values_from_outside_need_a_known_order(tmp_path, name, option):
    given = {option: {"fold": Y} if option == "columns" else Y}
    with pytest.raises(DataError, match=f"holds the values of all samples in order, and .*{name}"):
        pk.capture(nn.Identity(), UNORDERED[name](), tmp_path / "a", **given)


@pytest.mark.parametrize(
    "loader",
    [
        lambda: DataLoader(DATA, 10),
        lambda: DataLoader(DATA, 10, sampler=SequentialSampler(DATA)),
        lambda: DataLoader(DATA, batch_sampler=BatchSampler(SequentialSampler(DATA), 10, False)),
        lambda: DataLoader(DATA, 10, sampler=pk.ChunkSampler(DATA, chunk_rows=20)),
        lambda: DataLoader(DATA, 10, num_workers=2),
        lambda: DATA,
    ],
)
def test_a_known_order_takes_values_from_outside(tmp_path, loader):
    tree = pk.capture(nn.Sequential(nn.Identity()), loader(), tmp_path / "a", sites="0", labels=Y, batch_size=10)
    np.testing.assert_array_equal(tree["0"]["activation"].values[:, 0] // 20, tree["0"]["label"].values)


def test_inputs_in_another_order_are_seen_when_a_capture_goes_on(tmp_path):
    net, half = nn.Sequential(nn.Identity(), nn.Identity()), torch.cat([X[:24], X[24:].flip(0)])

    def stopped(x, at=3):
        for number, batch in enumerate(x.split(8)):
            if number == at:
                raise KeyboardInterrupt
            yield batch

    options = {"labels": False, "sites": "0", "memory": 8 * 2 * 4 * 2 * 2}
    pk.capture(net, X, tmp_path / "a", batch_size=8, labels=False, sites="0")
    with pytest.raises(DataError, match=r"the inputs of samples 24 to 31 have another checksum"):
        pk.capture(net, half, tmp_path / "a", batch_size=8, labels=False, sites="1", append="sites")
    with pytest.raises(KeyboardInterrupt):
        pk.capture(net, stopped(X, 5), tmp_path / "b", **options)
    with pytest.raises(DataError, match=r"the inputs of samples 24 to 31 have another checksum"):
        pk.capture(net, list(half.split(8)), tmp_path / "b", resume=True, **options)
    tree = pk.capture(net, list(X.split(8)), tmp_path / "b", resume=True, **options)
    np.testing.assert_array_equal(tree["0"]["activation"], X)


def test_sites_are_added_to_appended_samples_with_a_word_about_their_batches(tmp_path):
    net = nn.Sequential(nn.Identity(), nn.Identity())
    options = {"labels": False, "batch_size": 8}
    pk.capture(net, X[:20], tmp_path / "a", sites="0", **options)
    pk.capture(net, X[20:], tmp_path / "a", sites="0", append="samples", **options)
    with pytest.warns(UserWarning, match="was given other batches, so the inputs of 34 of its samples couldn't"):
        tree = pk.capture(net, X, tmp_path / "a", sites="1", append="sites", **options)
    np.testing.assert_array_equal(tree["1"]["activation"], X)


# Classes


NAMES = np.array(["cat", "dog", "eel"])


def test_strings_in_order_of_appearance_are_not_places_of_logits(tmp_path):
    true = np.array([2, 0, 1, 1, 0, 2, 0, 1])
    data, net = (torch.eye(3)[true] * 5, NAMES[true].tolist()), nn.Sequential(nn.Linear(3, 3))
    net[0].load_state_dict({"weight": torch.eye(3), "bias": torch.zeros(3)})
    for options in ({"predictions": True}, {"sites": "0:grad"}):
        with pytest.raises(DataError, match=r"numbered as they appear \('eel' = 0, .*Give class_names="):
            pk.capture(net, data, tmp_path / "a", **options)
        with pytest.raises(DataError, match="Give class_names="):
            pk.plan(net, data, **{"predictions": True} | options)
    with pytest.raises(DataError, match="Give class_names="):
        pk.measure_live(net, data, "mean", sites="0:grad")
    tree = pk.capture(net, data, tmp_path / "a", predictions=True, class_names=NAMES.tolist())
    np.testing.assert_array_equal(tree["prediction"], tree["label"])
    right = pk.measure(tree, "count", by="correct")["(root)"]["count"]
    assert right.sel(label=True)[0] == 8


class Animals(Dataset):
    classes = ("plane", "car", "bird")

    def __init__(self, relabel=lambda y: y, **more):
        self.relabel = relabel
        self.__dict__.update(more)

    def __len__(self):
        return 30

    def __getitem__(self, index):
        return torch.full((2,), float(index % 3)), self.relabel(index % 3)


class Wrapper(Dataset):
    def __init__(self, dataset):
        self.dataset = dataset

    def __len__(self):
        return len(self.dataset)

    def __getitem__(self, index):
        x, y = self.dataset[index]
        return x, int(y == 2)


def test_names_of_classes_are_taken_where_they_are_the_labels():
    assert Batches(Animals()).class_names == Animals.classes
    assert Batches(DataLoader(Subset(Animals(), range(5)))).class_names == Animals.classes
    assert Batches(Animals(target_transform=None)).class_names == Animals.classes
    assert Batches(Animals(lambda y: int(y == 2), target_transform=lambda y: int(y == 2))).class_names is None
    assert Batches(Wrapper(Animals())).class_names is None
    assert Batches(Animals(classes=[("tench", "Tinca tinca"), ["a"], "b"])).class_names == (
        "tench, Tinca tinca",
        "a",
        "b",
    )


def test_names_that_are_doubtful_or_too_few_are_told(tmp_path):
    with pytest.warns(UserWarning, match=r"No sample has the label 'bird'.*Animals\.classes.*give class_names="):
        pk.capture(nn.Identity(), Animals(lambda y: int(y == 2)), tmp_path / "a")
    with pytest.raises(DataError, match=r"go up to 2, and class_names= has 2 names: 'a', 'b'"):
        pk.capture(nn.Identity(), Animals(), tmp_path / "b", class_names=["a", "b"])
    with pytest.raises(DataError, match=r"go up to 5, and the data set's own classes are 3 names"):
        pk.capture(nn.Identity(), Animals(lambda y: y + 3), tmp_path / "b")
    assert not (tmp_path / "b").exists()


WORDNET = np.array([15075141, 2084071] * 20)


@pytest.mark.parametrize(
    "data",
    [
        lambda x, y: (x, y),
        lambda x, y: list(zip(x.split(16), np.split(y, [16, 32]), strict=True)),
        lambda x, y: TensorDataset(x, torch.from_numpy(y)),
        lambda x, y: (x, y.astype(str).tolist()),
    ],
)
def test_large_labels_are_names_of_classes(tmp_path, data):
    tree = pk.capture(nn.Sequential(nn.Identity()), data(torch.randn(40, 4), WORDNET), tmp_path / "a", batch_size=16)
    assert tree["class_name"].values.tolist() == ["15075141", "2084071"]
    assert tree["label"].values.tolist() == [0, 1] * 20
    assert pk.info(tmp_path / "a").classes == {"15075141": 20, "2084071": 20}
    live = pk.measure_live(nn.Identity(), data(torch.randn(40, 4), WORDNET + 2**40), "count", batch_size=16)
    assert live["(root)"]["class_name"].values.tolist() == [str(15075141 + 2**40), str(2084071 + 2**40)]
    assert live["(root)"]["count"].values[:, 0].tolist() == [20, 20]


def test_large_labels_go_on_where_a_capture_stopped(tmp_path):
    x = torch.randn(40, 4)

    def batches(stop=None):
        for number, span in enumerate(np.split(np.arange(40), 5)):
            if number == stop:
                raise KeyboardInterrupt
            yield x[span], WORDNET[span]

    with pytest.raises(KeyboardInterrupt):
        pk.capture(nn.Identity(), batches(3), tmp_path / "a", memory=8 * 4 * 4 * 2 * 2)
    tree = pk.capture(nn.Identity(), batches(), tmp_path / "a", memory=8 * 4 * 4 * 2 * 2, resume=True)
    assert tree["class_name"].values[tree["label"].values].tolist() == WORDNET.astype(str).tolist()


def test_as_many_large_labels_as_samples_are_refused_before_the_model_runs():
    def run(*_):
        raise AssertionError

    with pytest.raises(DataError, match=r"40 integers, each of them once.*ids=.*columns="):
        pk.measure_live(net := nn.Identity(), (torch.randn(40, 4), 10**6 + np.arange(40)), "mean")
    assert not net._forward_hooks


def test_labels_of_one_kind():
    with pytest.raises(DataError, match="are large integers, unlike those before them, which are integers"):
        list(Batches([(X[:2], [0, 1]), (X[2:4], [0, 10**6])]))


@pytest.mark.parametrize("ignored", [-100, [-100, 7]])
@pytest.mark.parametrize("make", [lambda x, y: (x, y), lambda x, y: DataLoader(TensorDataset(x, y), 8)])
def test_samples_can_be_left_out_by_their_label(tmp_path, make, ignored):
    y = torch.from_numpy(Y).clone()
    y[::3] = -100
    y[1] = 7 if isinstance(ignored, list) else 0
    keep = ~np.isin(y, ignored)
    net = nn.Linear(2, 3)
    with pytest.raises(DataError, match=r"go down to -100: give .*ignore_label=-100 to leave those samples out"):
        pk.capture(net, make(X, y), tmp_path / "a", batch_size=8)
    tree = pk.capture(net, make(X, y), tmp_path / "a", batch_size=8, ignore_label=ignored)
    np.testing.assert_array_equal(tree["label"], y[keep])
    np.testing.assert_array_equal(tree["sample_id"], np.flatnonzero(keep))
    np.testing.assert_allclose(tree["(root)"]["activation"], net(X[keep]).detach(), atol=1e-4)
    live = pk.measure_live(net, make(X, y), "count", batch_size=8, ignore_label=ignored)
    assert live["(root)"]["count"].values[:, 0].sum() == keep.sum()


# Inputs of different lengths


class Graphs(nn.Module):
    """Nodes' features, and the graph of each node; a score for each graph."""

    def __init__(self):
        super().__init__()
        self.node, self.graph = nn.Linear(2, 3), nn.Linear(3, 2)

    def forward(self, x, graph, count):
        nodes = self.node(x)
        return self.graph(torch.zeros(int(count), 3).index_add(0, graph, nodes))


def graphs(sizes):
    owner = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    return {"x": X[: len(owner)], "graph": owner, "count": torch.tensor([len(sizes)])}


@pytest.mark.parametrize("order", [lambda n: torch.arange(n), lambda n: torch.arange(n).flip(0)])
def test_rows_of_a_site_belong_to_samples(tmp_path, order):
    batches = []
    for sizes in ([3, 1, 4], [2, 5], [1]):
        batch = graphs(sizes)
        index = order(len(batch["x"]))
        batches.append(batch | {"x": batch["x"][index], "graph": batch["graph"][index]})
    net, labels = Graphs(), np.array([0, 1, 0, 1, 1, 0])
    with pytest.raises(DataError, match=r"different numbers of samples: .*rows=, a callable"):
        pk.capture(net, batches, tmp_path / "a")
    options = {"labels": labels, "rows": lambda inputs: (int(inputs["count"]), inputs["graph"])}
    tree = pk.capture(net, batches, tmp_path / "a", **options)
    stored, live = pk.measure(tree, "mean"), pk.measure_live(net, batches, "mean", **options)
    values = torch.cat([net.node(batch["x"][torch.argsort(batch["graph"], stable=True)]) for batch in batches]).detach()
    owner = np.repeat(np.arange(6), [3, 1, 4, 2, 5, 1])
    np.testing.assert_allclose(tree["node"]["activation"], values, atol=1e-5)
    np.testing.assert_array_equal(tree["node"]["sample_id"], owner)
    np.testing.assert_array_equal(tree["node"]["position"], np.concatenate([np.arange(n) for n in [3, 1, 4, 2, 5, 1]]))
    assert tree["graph"]["activation"].shape == (6, 2)
    for label in (0, 1):
        mean = values[labels[owner] == label].mean(0)
        np.testing.assert_allclose(stored["node"]["mean"].sel(label=label), mean, atol=1e-4)
        np.testing.assert_allclose(live["node"]["mean"].sel(label=label), mean, atol=1e-4)
    assert pk.verify(tmp_path / "a")


def test_rows_by_selector_and_what_does_not_fit(tmp_path):
    net, batch = Graphs(), graphs([1, 2])
    both = {"node": batch["graph"]}
    tree = pk.capture(net, [batch], tmp_path / "a", rows=lambda inputs: (2, both), sites=["node", "graph"])
    assert tree["node"]["activation"].dims == ("row", "node")
    with pytest.raises(SiteError, match=r"Axis 0 of node \(Linear\) is not the batch"):
        pk.capture(net, [batch], tmp_path / "b", rows=lambda inputs: 2)
    with pytest.raises(DataError, match=r"rows= gave \(3,\) values .* from 0 to 0"):
        pk.capture(net, [graphs([3])], tmp_path / "b", rows=lambda inputs: (1, torch.arange(3)))
    with pytest.raises(DataError, match="rows= returned 'two'"):
        pk.capture(net, [batch], tmp_path / "b", rows=lambda inputs: "two")
    with pytest.raises(SiteError, match="has as many rows as there are samples"):
        pk.capture(net, [graphs([2, 0])], tmp_path / "b", rows=lambda inputs: (2, inputs["graph"]), sites="node")


def test_a_step_of_one_value_beside_the_batch(tmp_path):
    class Denoiser(nn.Module):
        def forward(self, x, t):
            return x * t

    data = [(x, torch.tensor([0.5])) for x in X.split(20)]
    tree = pk.capture(Denoiser(), data, tmp_path / "a", labels=False, rows=lambda inputs: len(inputs[0]))
    np.testing.assert_allclose(tree["(root)"]["activation"], X * 0.5)
