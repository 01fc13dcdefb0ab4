"""What a store on disk says of itself: every damage is named, and a repair loses no more than it must."""

import shutil
import threading
from collections import OrderedDict

import numpy as np
import pytest
import torch
from torch import nn

import probekit as pk
from probekit.errors import StoreError
from tests.models import TokenLayers
from tests.stores import contents, opened

ROWS, BATCH = 48, 4


def texts():
    lengths = np.random.default_rng(0).integers(1, 8, ROWS)
    ids = np.random.default_rng(1).integers(1, 50, (ROWS, 7))
    mask = (np.arange(7) < lengths[:, None]).astype(np.int64)
    return {"input_ids": ids, "attention_mask": mask, "label": np.arange(ROWS) % 3}


def first_position(tensor):
    return tensor[:, 0]


def capture(out, **options):
    """A store of chunk rows of 8 samples and 41 tokens."""
    torch.manual_seed(0)
    layers = OrderedDict(embed=nn.Embedding(50, 6), wide=nn.Linear(6, 300), mix=nn.Linear(300, 40))
    reduce = {"mix": "tokens", "wide": first_position}
    given = {"data": texts(), "reduce": reduce, "memory": 40_000, "batch_size": BATCH}
    given |= {"class_names": ["ant", "bee fly", "cat"], "sites": ["wide", "mix"]} | options
    return pk.capture(TokenLayers(layers), given.pop("data"), out, **given)


@pytest.fixture
def store(tmp_path):
    capture(tmp_path / "a.zarr")
    return tmp_path / "a.zarr"


def chunks(store, array):
    return sorted((file for file in (store / array / "c").rglob("*") if file.is_file()), key=lambda f: len(str(f)))


def flip(file):
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


def of_row(store, array, row):
    return next(file for file in chunks(store, array) if file.relative_to(store / array / "c").parts[0] == str(row))


@pytest.mark.parametrize("options", [{}, {"compression": "fast"}, {"compression": "small"}, {"ids": list("ab") * 24}])
def test_a_store_that_was_written_is_sound(tmp_path, options):
    tree = capture(tmp_path / "a.zarr", **options)
    found = pk.verify(tmp_path / "a.zarr")
    assert found
    assert (found.rows, found.sites, found.columns, found.damages, found.kept) == (ROWS, 2, 4, (), None)
    sizes = [len(content) for name, content in contents(tmp_path / "a.zarr").items() if not name.endswith(".json")]
    assert (found.chunks, found.bytes) == (len(sizes), sum(sizes))
    assert (tree.attrs["chunk_rows"], tree.attrs["token_rows"]) == (8, 41)
    assert "all sound" in repr(found)


def missing(file):
    file.unlink()


def truncated(file):
    file.write_bytes(file.read_bytes()[:-9])


def emptied(file):
    file.write_bytes(b"")


def a_folder(file):
    file.unlink()
    file.mkdir()


DAMAGES = {
    missing: "missing",
    truncated: "wrong length|wrong checksum",  # strings have no length of their own
    flip: "wrong checksum",
    emptied: "wrong length",
    a_folder: "it is no file",
}


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
@pytest.mark.parametrize(
    ("array", "name", "dim"),
    [
        ("wide/activation", "wide", "chunk_rows"),
        ("mix/activation", "mix", "token_rows"),
        ("mix/position", "mix: position", "token_rows"),
        ("label", "label", "chunk_rows"),
        ("class_name", "class_name", None),
    ],
)
def test_each_damage_is_named_with_its_rows(store, damage, array, name, dim):
    step, row = (pk.open(store).attrs[dim], 1) if dim else (3, 0)
    damage(of_row(store, array, row))
    found = pk.verify(store)
    assert not found
    [one] = found.damages
    assert (one.name, one.array, one.start, one.stop) == (name, array, row * step, (row + 1) * step)
    assert any(what in one.what for what in DAMAGES[damage].split("|"))


def test_neighbouring_damages_are_one(store):
    shutil.rmtree(store / "wide")
    found = {(one.array, one.start, one.stop): one.what for one in pk.verify(store).damages}
    assert found == {
        ("wide/activation", 0, ROWS): "missing",
        ("wide", 0, 0): "its zarr.json is missing",
        ("wide/activation", 0, 0): "its zarr.json is missing",
    }


def test_damages_are_listed_in_print_and_in_a_notebook(store):
    missing(of_row(store, "wide/activation", 1))
    found = pk.verify(store)
    step = pk.open(store).attrs["chunk_rows"]
    cells = ["wide", f"{step}–{2 * step - 1}", "missing", "wide/activation"]
    summary, _, row = repr(found).splitlines()
    assert summary.endswith("1 damaged")
    assert row.split() == cells
    assert "".join(f"<td>{cell}</td>" for cell in cells) in found._repr_html_()
    assert repr(pk.verify(store, repair=True)).splitlines()[0].endswith("captures the others again")


def test_reading_what_is_damaged_says_so_and_gives_no_zeros(store):
    missing(of_row(store, "wide/activation", 1))
    flip(of_row(store, "mix/activation", 1))
    tree = pk.open(store)
    step = pk.open(store).attrs["chunk_rows"]
    assert np.isfinite(tree["wide"]["activation"][:step].values).all()
    with pytest.raises(StoreError, match=r"wide/activation of .* can't be read: .* is missing\. `probekit verify"):
        tree["wide"]["activation"].load()
    with pytest.raises(StoreError, match=r"mix/activation of .* can't be read: .*checksum"):
        pk.measure(store, "std", sites="mix")


@pytest.mark.parametrize("options", [{"compression": "fast"}, {"ids": np.arange(ROWS) // 2}])
@pytest.mark.parametrize(
    ("array", "row"),
    [("wide/activation", 3), ("wide/activation", 0), ("mix/activation", 2), ("mix/position", 2), ("sample_id", 2)],
)
def test_a_repair_and_a_resume_give_the_same_bits_again(tmp_path, options, array, row):
    out, whole = tmp_path / "a.zarr", tmp_path / "b.zarr"
    tree = capture(whole, **options).load()
    shutil.copytree(whole, out)
    flip(of_row(out, array, row))
    found = pk.verify(out, repair=True)
    assert len(found.damages) == 1
    step = tree.attrs["chunk_rows"]
    tokens = np.repeat(np.arange(ROWS), texts()["attention_mask"].sum(1))  # the sample of each
    first = tokens[row * tree.attrs["token_rows"]] if array.startswith("mix") else row * step
    assert found.kept == first - first % step
    assert pk.verify(out)
    left = opened(out)
    for site in ("wide", "mix"):
        values = left[site]["activation"].values
        np.testing.assert_array_equal(values, tree[site]["activation"].values[: len(values)])
    assert set(left["mix"]["sample_id"].values) <= set(left["sample_id"].values)
    capture(out, resume=True, **options)
    assert contents(out) == contents(whole)


def test_what_repairs_without_loss_loses_nothing(store, tmp_path):
    whole = contents(store)
    shutil.rmtree(store / "class_name")
    (store / "wide/zarr.json").unlink()
    (store / "label/zarr.json").write_text("{}")
    found = pk.verify(store, repair=True)
    assert (found.kept, len(found.damages)) == (ROWS, 4)
    assert pk.verify(store)
    assert pk.open(store)["class_name"].values.tolist() == ["ant", "bee_fly", "cat"]  # as the record has it
    assert {name for name, content in contents(store).items() if content != whole[name]} == {
        "class_name/c/0",
        "zarr.json",
    }


def test_a_sound_store_is_left_as_it_is(store):
    before = {file: file.stat().st_mtime_ns for file in store.rglob("*")}
    assert pk.verify(store, repair=True).kept is None
    assert before == {file: file.stat().st_mtime_ns for file in store.rglob("*")}


def test_without_its_record_there_is_nothing_to_repair(store):
    (store / "zarr.json").write_text("{")
    for repair in (False, True):
        with pytest.raises(StoreError, match=r"not a commit record .* put its record back from a copy, or capture it"):
            pk.verify(store, repair=repair)
    with pytest.raises(StoreError, match="There is no store at"):
        pk.verify(store.with_name("none.zarr"), repair=True)
    assert not store.with_name("none.zarr").exists()


def test_a_prefix_is_sound_while_a_writer_runs_and_is_not_repaired_then(tmp_path):
    out, seen = tmp_path / "a.zarr", []

    def batches():
        for start in range(0, 400, 10):
            yield torch.full((10, 4), float(start))
            if out.exists():
                found = pk.verify(out)
                assert found, found
                seen.append(found.rows)
        with pytest.raises(StoreError, match="is being written"):
            pk.verify(out, repair=True)

    pk.capture(nn.Identity(), batches(), out, memory=10 * 2 * 16)
    assert len(set(seen)) > 3


def test_memory_and_progress(store):
    seen = []

    def progress(items, description, total=None):
        for item in items:
            seen.append((description, total))
            yield item

    pk.verify(store, progress=progress)
    assert seen == [("verify", len(seen))] * len(seen)
    assert len(seen) > 4
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("probekit-verify")]


def test_a_store_by_its_url(store):
    fsspec = pytest.importorskip("fsspec")
    memory = fsspec.filesystem("memory")
    memory.put(str(store), "/bucket/a.zarr", recursive=True)
    assert pk.verify("memory://bucket/a.zarr")
    key = f"/bucket/a.zarr/{of_row(store, 'wide/activation', 2).relative_to(store)}"
    memory.rm(key)
    [damage] = pk.verify("memory://bucket/a.zarr").damages
    assert (damage.name, damage.what) == ("wide", "missing")
    assert pk.verify("memory://bucket/a.zarr", repair=True).kept == damage.start
    assert pk.verify("memory://bucket/a.zarr")
    memory.rm("/bucket", recursive=True)
