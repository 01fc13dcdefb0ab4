"""A store of unknown origin: whatever its record says is refused with a reason, or read without harm."""

import contextlib
import copy
import json
import os
import shutil
import warnings

import google_crc32c
import numpy as np
import pytest
import torch
from torch import nn

import probekit as pk
from probekit.errors import ProbekitError, StoreError
from tests.models import TokenLayers
from tests.stores import write_record


def capture(path, **options):
    torch.manual_seed(0)
    model = TokenLayers(nn.Embedding(9, 4), nn.Linear(4, 3))
    data = {
        "input_ids": torch.arange(24).reshape(8, 3) % 9,
        "attention_mask": torch.ones(8, 3),
        "label": torch.arange(8) % 2,
    }
    chosen = {"reduce": {"1": "tokens", "0": "mean"}, "sites": ["0", "1"], **options}
    return pk.capture(model, data, path, columns={"split": ["a"] * 8}, batch_size=4, **chosen)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    path = tmp_path_factory.mktemp("made") / "a.zarr"
    capture(path)
    return path


@pytest.fixture
def hostile(made, tmp_path):
    """Writes the store with another record."""

    def write(record):
        path = tmp_path / "h.zarr"
        if not path.exists():
            shutil.copytree(made, path)
        if isinstance(record, str):
            (path / "zarr.json").write_text(record)
        else:
            write_record(path, record)
        return path

    return write


def each_way(path):
    yield lambda: pk.open(path)
    yield lambda: pk.info(path)
    yield lambda: pk.verify(path)
    yield lambda: pk.verify(path, repair=True)
    yield lambda: pk.measure(path, "std")


def each_way_to_write(path):
    yield lambda: capture(path, resume=True)
    yield lambda: capture(path, append="samples")
    yield lambda: capture(path, append="sites", sites="(root)", reduce="last")
    yield lambda: capture(path, overwrite=True)


def refused(path, message):
    for read in each_way(path):
        with pytest.raises(StoreError, match=message):
            read()


ACTIVATION, BIG = "0/activation", 10**12


def moved(old, new):
    def change(record, nodes):
        nodes[new] = nodes.pop(old)

    return change


def put(path, *keys):
    """Puts the last of `keys` where the others lead to, in the node at `path`."""
    *way, last, value = keys

    def change(record, nodes):
        node = nodes[path]
        for key in way:
            node = node[key]
        node[last] = value

    return change


def attribute(name, value):
    return lambda record, nodes: record["attributes"].__setitem__(name, value)


def everywhere(rows):
    def change(record, nodes):
        record["attributes"]["rows"] = rows
        for node in nodes.values():
            if node.get("dimension_names", [""])[0] == "sample":
                node["shape"][0] = rows

    return change


ZARR = "metadata that no writer"  # zarr finds it, on opening
CODEC = [{"name": "bytes", "configuration": {"endian": "little"}}, {"name": "crc32c"}]
CHANGES = {
    "a path out of the store": (moved(ACTIVATION, "../x/activation"), "there is a node"),
    "a path out of the store, at the end": (moved("split", ".."), "there is a node"),
    "an absolute path": (moved(ACTIVATION, "/etc/activation"), "there is a node"),
    "a path with NUL": (moved("split", "a\0b"), "there is a node"),
    "a path with a backslash": (moved("split", "..\\x"), "there is a node"),
    "a deep path": (moved(ACTIVATION, "0/a/activation"), "there is a node"),
    "a path beyond UTF-8": (moved("split", "\ud800"), "surrogates"),
    "a long name": (moved("split", "a" * 300), "there is a node"),
    "an empty name": (moved("split", ""), "there is a node"),
    "names that differ in case": (lambda r, n: n.update({"SPLIT": n["split"]}), "differ in case|the root has"),
    "a group that holds nothing": (moved("0", "2"), "lies in no group"),
    "a group without a site": (lambda r, n: n["0"].update(attributes={}), "KeyError: 'site'"),
    "a site that is no name": (put("0", "attributes", "site", ["x"]), "attribute site"),
    "a group without an activation": (moved(ACTIVATION, "0/other"), "has no activation"),
    "a node that is none": (put(ACTIVATION, "node_type", "dataset"), "neither a group nor an array"),
    "a node that is a list": (lambda r, n: n.update({"split": []}), "TypeError"),
    "nodes that are a list": (lambda r, n: r.update(consolidated_metadata={"metadata": []}), "not a commit record"),
    "no nodes": (lambda r, n: n.clear(), "the root has"),
    "a huge length": (put("label", "shape", [BIG]), "'label' has not 8 rows"),
    "a huge length everywhere": (everywhere(BIG), "chunk rows"),
    "a negative length": (everywhere(-1), "rows is -1"),
    "a length that is a float": (everywhere(8.0), "rows is 8.0"),
    "a length that is true": (everywhere(True), "rows is True"),
    "a negative shape": (put(ACTIVATION, "shape", [8, -4]), "the shape of"),
    "a shape that is text": (put(ACTIVATION, "shape", "84"), "the shape of"),
    "no shape": (put("label", "shape", []), "the shape of"),
    "many axes": (put(ACTIVATION, "shape", [8] * 99), "the shape of"),
    "other rows than the record": (attribute("rows", 7), "has not 7 rows"),
    "rows that are missing": (lambda r, n: r["attributes"].pop("rows"), "KeyError: 'rows'"),
    "rows of tokens that disagree": (put("1/position", "shape", [23]), "has not 24 rows"),
    "enormous chunks": (
        put(ACTIVATION, "chunk_grid", "configuration", "chunk_shape", [8, BIG]),
        "takes 32000000000000",
    ),
    "chunks of nothing": (put(ACTIVATION, "chunk_grid", "configuration", "chunk_shape", [8, 0]), "the chunks of"),
    "chunks of other rows": (put(ACTIVATION, "chunk_grid", "configuration", "chunk_shape", [3, 4]), "have 3 rows"),
    "many chunks": (put(ACTIVATION, "shape", [8, 2**30]), "there are 2684"),
    "an irregular grid": (put(ACTIVATION, "chunk_grid", "name", "rectilinear"), "the chunks of"),
    "an unknown codec": (put(ACTIVATION, "codecs", [*CODEC, {"name": "evil"}]), "the codecs of"),
    "a codec that unpickles": (put(ACTIVATION, "codecs", [{"name": "numcodecs.pickle"}]), "the codecs of"),
    "no checksum": (put(ACTIVATION, "codecs", CODEC[:1]), "the codecs of"),
    "a codec with a bad setting": (put(ACTIVATION, "codecs", 0, "configuration", {"endian": "x"}), ZARR),
    "a transformer": (put(ACTIVATION, "storage_transformers", [{"name": "x"}]), "are named by"),
    "other keys": (put(ACTIVATION, "chunk_key_encoding", {"name": "v2"}), "are named by"),
    "a dtype of objects": (put(ACTIVATION, "data_type", "object"), "the data_type"),
    "a dtype that is a list": (put(ACTIVATION, "data_type", [["a", "<i4"]]), "TypeError"),
    "a fill value that is none": (put(ACTIVATION, "fill_value", {"a": 1}), "the fill value of"),
    "dims that are twice the same": (put(ACTIVATION, "dimension_names", ["sample", "sample"]), "the dims of"),
    "dims of other rows": (put(ACTIVATION, "dimension_names", ["row", "node"]), "dims of"),
    "dims that are missing": (put(ACTIVATION, "dimension_names", None), "TypeError"),
    "dims that are numbers": (put(ACTIVATION, "dimension_names", [1, 2]), "the dims of"),
    "an index, which would be loaded": (put("label", "dimension_names", ["label"]), "the dims of"),
    "coordinates of what isn't there": (attribute("coordinates", "sample_id label split x"), "the root has"),
    "coordinates that aren't text": (attribute("coordinates", ["label"]), "coordinates is"),
    "more classes than flags": (put("class_name", "shape", [BIG]), "flag_values"),
    "labels that are text": (put("label", "data_type", "float64"), "not integers"),
    "attributes that are text": (lambda r, n: r.update(attributes="x"), "not a commit record"),
    "a version that is text": (attribute("probekit_format", "one"), "not a commit record"),
    "a version to come": (attribute("probekit_format", 3), "Upgrade"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_record_that_no_writer_makes_is_refused_with_the_reason(made, hostile, change):
    record = json.loads((made / "zarr.json").read_text())
    apply, message = CHANGES[change]
    apply(record, record["consolidated_metadata"]["metadata"])
    path = hostile(record)
    if message == ZARR:
        for read in (lambda: pk.open(path), lambda: pk.info(path), lambda: pk.measure(path, "std")):
            with pytest.raises(StoreError, match=message):
                read()
    else:
        refused(path, message)


@pytest.mark.parametrize(
    "text", ["", "[]", "null", "7", '"x"', "{", "[" * 100_000, "\xff", '{"attributes": NaN}', "9" * 5000]
)
def test_a_record_that_is_no_json_object_is_refused(hostile, text):
    refused(hostile(text), "not a commit record")


def test_a_record_that_is_too_large_is_refused_unread(hostile):
    path = hostile("")
    os.truncate(path / "zarr.json", 200 * 2**20)
    refused(path, r"wrong length: 209715200 bytes, more than \d+")


@pytest.mark.parametrize("count", [60, pytest.param(1000, marks=pytest.mark.long)])
def test_any_value_of_any_type_anywhere_is_refused_or_harmless(made, hostile, count):
    whole = json.loads((made / "zarr.json").read_text())
    values = [None, -1, 2**70, 1.5, "x", [], {}, [[]], True]

    def ways(node, way=()):
        yield way
        items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
        for key, value in items:
            yield from ways(value, (*way, key))

    everywhere = [way for way in ways(whole) if way]
    rng = np.random.default_rng(0)
    for number in rng.permutation(len(everywhere))[:count]:
        record = copy.deepcopy(whole)
        node = record
        *way, last = everywhere[number]
        for key in way:
            node = node[key]
        node[last] = values[rng.integers(len(values))]
        path = hostile(record)
        for act in (*each_way(path), *each_way_to_write(path)):
            with warnings.catch_warnings(action="ignore"), contextlib.suppress(ProbekitError):
                write_record(path, record)
                act()
        assert sorted(os.listdir(path.parent)) == ["h.zarr"]


def test_labels_beyond_the_classes_are_no_memory(made, hostile):
    record = json.loads((made / "zarr.json").read_text())
    record["consolidated_metadata"]["chunk_crc32c"] = {}
    path = hostile(record)
    values = np.array([0, 10**12, *[0] * 6], "<i8")
    data = values.view(np.uint8)
    (path / "label/c/0").write_bytes(data.tobytes() + google_crc32c.value(data).to_bytes(4, "little"))
    with pytest.raises(StoreError, match="labels from 0 to 1000000000000"):
        pk.info(path)


def test_a_chunk_that_never_ends_is_not_read(made, hostile):
    path = hostile((made / "zarr.json").read_text())
    chunk = path / "0/activation/c/0/0"
    chunk.unlink()
    chunk.symlink_to("/dev/zero")
    assert [damage.what for damage in pk.verify(path).damages] == ["it is a link"]
    with pytest.raises(StoreError, match="it is a link"):
        pk.open(path)["0"]["activation"].load()
    chunk.unlink()
    chunk.touch()
    os.truncate(chunk, 2**40)
    assert [damage.what.partition(":")[0] for damage in pk.verify(path).damages] == ["wrong length"]
    with pytest.raises(StoreError, match=r"checksum|another size"):
        pk.open(path)["0"]["activation"].load()


@pytest.mark.parametrize("name", ["0", "0/activation", "0/activation/c", "label/c", "zarr.json.partial", ".lock"])
def test_nothing_is_written_through_a_link(made, hostile, tmp_path, name):
    path = hostile((made / "zarr.json").read_text())
    (path / "label/c/0").unlink()  # so that there is something to repair
    elsewhere = tmp_path / "elsewhere"
    if (path / name).exists():
        (path / name).rename(elsewhere)
    else:
        elsewhere.write_text("precious")
    before = {file: file.stat().st_mtime_ns for file in [elsewhere, *elsewhere.rglob("*")]}
    (path / name).symlink_to(elsewhere)
    for write in (
        lambda: pk.verify(path, repair=True),
        lambda: pk.capture(nn.Identity(), torch.zeros(2, 2), path, overwrite=True),
    ):
        with pytest.raises(StoreError, match="is a link"):
            write()
    assert before == {file: file.stat().st_mtime_ns for file in [elsewhere, *elsewhere.rglob("*")]}


def test_what_a_store_holds_is_no_command_to_the_terminal(made, hostile, capsys):
    from probekit.cli import main

    record = json.loads((made / "zarr.json").read_text())
    record["consolidated_metadata"]["metadata"]["0"]["attributes"]["type"] = "\x1b]0;title\x07\x1b[2J"
    record["attributes"]["model"] = "\x1b[31m"
    with pytest.raises(SystemExit):
        main(["info", str(hostile(record))])
    assert "\x1b" not in capsys.readouterr().out
