"""The rows of a site as a torch data set, against the arrays of the same site."""

import pickle

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import nn
from torch.utils.data import DataLoader

import probekit as pk
from probekit.errors import DataError, StoreError
from tests import processes
from tests.models import TokenLayers
from tests.stores import opened_counting

ROWS, NODES = 103, 6


def capture(out, labels=True, **options):
    torch.manual_seed(0)
    x, y = torch.randn(ROWS, 5), torch.arange(ROWS) % 3
    options = {"batch_size": 5, "memory": 2 * 10 * (NODES + 4) * 4} | options  # ten rows in a chunk
    return pk.capture(nn.Sequential(nn.Linear(5, NODES), nn.ReLU()), (x, y) if labels else x, out, sites="1", **options)


@pytest.fixture
def site(tmp_path):
    return capture(tmp_path / "a.zarr")["1"]


def together(loader):
    values, labels = zip(*loader, strict=True)
    return torch.cat(values).numpy(), torch.cat(labels).numpy()


def sorted_rows(values, labels):
    both = np.column_stack([values, labels])
    return both[np.lexsort(both.T)]


def test_rows_are_those_of_the_arrays(site):
    rows, values, labels = pk.as_dataset(site), site["activation"].values, site["label"].values
    assert len(rows) == ROWS
    assert repr(rows).startswith(f"Rows({ROWS} of shape (")
    assert site["activation"].encoding["chunks"][0] < 30  # several chunk rows
    for index in (0, 57, ROWS - 1, -1):
        row, label = rows[index]
        np.testing.assert_array_equal(row, values[index])
        assert label == labels[index]
    for index in (slice(7, 42), slice(None), slice(90, 500), slice(50, 10), slice(None, None, 7), [44, 3, 3, -1], []):
        batch, theirs = rows[index]
        np.testing.assert_array_equal(batch, values[np.asarray(index, int) if isinstance(index, list) else index])
        np.testing.assert_array_equal(theirs, labels[np.asarray(index, int) if isinstance(index, list) else index])
    for index in (ROWS, -ROWS - 1, [0, ROWS], torch.tensor([-ROWS - 1])):
        with pytest.raises(IndexError):
            rows[index]


def test_what_is_done_to_a_batch_leaves_the_rows(site):
    rows = pk.as_dataset(site)
    for index in (3, slice(0, 5), [3, 4]):
        rows[index][0].fill_(-1)
    assert rows[3:5][0].min() >= 0


@pytest.mark.parametrize("shuffle", [False, True])
def test_an_epoch_has_every_row_once(site, shuffle):
    for memory in ("1MiB", 3_000, 1_000):
        loader = pk.as_dataset(site, memory=memory).loader(16, shuffle=shuffle)
        assert [len(labels) for _, labels in loader] == [16] * 6 + [7]
        values, labels = together(loader)
        assert np.array_equal(labels, site["label"].values) != shuffle
        expected = sorted_rows(site["activation"].values, site["label"].values)
        np.testing.assert_array_equal(sorted_rows(values, labels), expected)
        dropping = pk.as_dataset(site, memory=memory).loader(16, shuffle=shuffle, drop_last=True)
        assert [len(labels) for _, labels in dropping] == [16] * 6 == [16] * len(dropping)


def test_the_order_is_drawn_anew_and_again_from_the_same_generator(site):
    def orders():
        loader = pk.as_dataset(site).loader(10, shuffle=True, generator=torch.Generator().manual_seed(3))
        return [together(loader)[0] for _ in range(2)]

    first, second = orders()
    assert not np.array_equal(first, second)
    np.testing.assert_array_equal(orders(), [first, second])
    torch.manual_seed(5)
    with_torchs = together(pk.as_dataset(site).loader(10, shuffle=True))[0]
    torch.manual_seed(5)
    np.testing.assert_array_equal(together(pk.as_dataset(site).loader(10, shuffle=True))[0], with_torchs)


@pytest.mark.parametrize("shuffle", [False, True])
def test_each_chunk_row_is_read_once_an_epoch(site, shuffle, tmp_path):
    tree, reads = opened_counting(tmp_path / "a.zarr")
    rows = pk.as_dataset(tree["1"], memory=3_000)
    assert rows.kept > 1
    for _ in rows.loader(16, shuffle=shuffle):
        pass
    assert len(reads) == -(-ROWS // rows.together)
    assert reads.total() <= len(reads) + (rows.kept if shuffle else 0)


def test_a_data_loader_of_ones_own(site):
    for values, labels in (
        together(DataLoader(pk.as_dataset(site), batch_size=16)),
        together(DataLoader(pk.as_dataset(site), batch_size=16, shuffle=True)),
    ):
        expected = sorted_rows(site["activation"].values, site["label"].values)
        np.testing.assert_array_equal(sorted_rows(values, labels), expected)


@pytest.mark.parametrize("start", ["fork", "forkserver", pytest.param("spawn", marks=pytest.mark.long)])
def test_workers_read_the_same(site, start):
    rows = pk.as_dataset(site)
    rows[0]  # a cache, and whatever reading has started, in the process that is forked
    context = processes.CONTEXT if start == "forkserver" else start
    values, labels = together(rows.loader(16, num_workers=2, multiprocessing_context=context))
    np.testing.assert_array_equal(values, site["activation"].values)
    np.testing.assert_array_equal(labels, site["label"].values)


def test_it_pickles_without_what_it_has_read(site):
    rows = pk.as_dataset(site)
    assert len(rows[:][0]) == ROWS
    small = pickle.dumps(rows)
    assert len(small) < 50_000
    np.testing.assert_array_equal(pickle.loads(small)[5:20][0], site["activation"].values[5:20])


def test_without_labels_it_gives_the_activation_alone(tmp_path):
    site = capture(tmp_path / "a.zarr", labels=False)["1"]
    rows = pk.as_dataset(site)
    np.testing.assert_array_equal(rows[4], site["activation"].values[4])
    np.testing.assert_array_equal(torch.cat(list(rows.loader(16))), site["activation"].values)
    np.testing.assert_array_equal(torch.cat(list(DataLoader(rows, 16))), site["activation"].values)


def test_another_column_or_none(tmp_path):
    columns = {"depth": np.linspace(0, 1, ROWS), "split": ["a", "b", "c"] * 34 + ["a"]}
    site = capture(tmp_path / "a.zarr", columns=columns)["1"]
    np.testing.assert_array_equal(pk.as_dataset(site, label="depth")[:][1], columns["depth"])
    assert isinstance(pk.as_dataset(site, label=None)[0], torch.Tensor)
    for name in ("split", "dept"):
        with pytest.raises(DataError, match=rf"no column '{name}' of numbers, .* there is .*depth"):
            pk.as_dataset(site, label=name)


def test_tokens_feature_maps_and_compressed_chunks(tmp_path):
    mask = (torch.arange(7) < torch.randint(1, 8, (40, 1))).long()
    data = {"input_ids": torch.randint(0, 9, (40, 7)), "attention_mask": mask, "label": torch.arange(40) % 4}
    words = pk.capture(
        TokenLayers(nn.Embedding(9, 3)), data, tmp_path / "a", reduce="tokens", batch_size=4, memory=900
    )["0"]
    images = pk.capture(nn.Conv2d(1, 5, 3), torch.randn(50, 1, 8, 8), tmp_path / "b", batch_size=5, dtype="bfloat16")
    for site in (words, images["(root)"]):
        rows = pk.as_dataset(site)
        values = torch.cat([batch[0] if isinstance(batch, list | tuple) else batch for batch in rows.loader(9)])
        np.testing.assert_array_equal(values, site["activation"].values)
        if "label" in site.coords:
            np.testing.assert_array_equal(rows[:][1], site["label"].values)
            assert len(rows) == mask.sum()


def test_some_rows_of_a_site_and_one_in_memory(site):
    part = site.to_dataset().isel(sample=slice(13, None, 2), node=[1, 4])
    np.testing.assert_array_equal(pk.as_dataset(part)[:][0], site["activation"].values[13::2][:, [1, 4]])
    np.testing.assert_array_equal(pk.as_dataset(site.to_dataset().load())[:][0], site["activation"].values)


def test_what_cannot_be_a_data_set_of_rows(site, tmp_path):
    with pytest.raises(DataError, match=r"takes one site, such as tree\['layers.0'\]\. It has the sites 1"):
        pk.as_dataset(pk.open(tmp_path / "a.zarr"))
    with pytest.raises(DataError, match=r"A chunk row takes .* and memory is 100 bytes"):
        pk.as_dataset(site, memory=100)
    with pytest.raises(DataError, match="batch_size is 0"):
        pk.as_dataset(site).loader(0)


def test_a_damaged_chunk_is_named(site, tmp_path):
    chunk = tmp_path / "a.zarr/1/activation/c/1/0"
    whole = chunk.read_bytes()
    for content, fault in ((whole[:-5] + b"x" + whole[-4:], "checksum"), (whole[:-1], "size"), (whole + b"1", "size")):
        chunk.write_bytes(content)
        with pytest.raises(StoreError, match=rf"c/1/0.*{fault}|{fault}.*c/1/0"):
            pk.as_dataset(site)[:]
    chunk.unlink()
    with pytest.raises(StoreError, match="c/1/0 is missing"):
        pk.as_dataset(site)[:]


def test_a_linear_probe_learns_what_scikit_learns(tmp_path):
    torch.manual_seed(0)
    x = torch.randn(1_200, 12)
    y = (x @ torch.randn(12, 3) + 0.5 * torch.randn(1_200, 3)).argmax(1)
    site = pk.capture(nn.Tanh(), (x, y), tmp_path / "a.zarr", batch_size=50, memory=50_000)["(root)"]
    train, test = (site.to_dataset().isel(sample=part) for part in (slice(900), slice(900, None)))
    probe = nn.Linear(12, 3)
    optimizer = torch.optim.Adam(probe.parameters(), lr=0.02)
    for _ in range(40):
        for batch, labels in pk.as_dataset(train).loader(50, shuffle=True):
            optimizer.zero_grad()
            nn.functional.cross_entropy(probe(batch), labels).backward()
            optimizer.step()
    rows, labels = pk.as_dataset(test)[:]
    ours = (probe(rows).argmax(1) == labels).float().mean().item()
    known = LogisticRegression(C=1e2).fit(train["activation"].values, train["label"].values)
    theirs = known.score(test["activation"].values, test["label"].values)
    assert theirs > 0.8
    assert abs(ours - theirs) < 0.03
