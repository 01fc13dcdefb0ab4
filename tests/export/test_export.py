"""A store in the files of other tools: each library reads what probekit.open gives."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import xarray as xr
from safetensors.numpy import load_file

import probekit as pk
from probekit.errors import DataError, ModelError, ProbekitError, SiteError, StoreError
from tests.stores import files

NAMES = ["ant", "bée", "<cat>"]
Read = Callable[[Path, str], dict[str, Any]]


class Net(torch.nn.Module):
    """A vector and a feature map of each sample."""

    def __init__(self) -> None:
        super().__init__()
        self.relu = torch.nn.ReLU()
        self.map = torch.nn.Unflatten(1, (2, 2, 3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.map(self.relu(x))
        return out.flatten(1)


class Tokens(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = torch.nn.Embedding(11, 5)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.embed(input_ids)
        return out


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """300 samples in several chunk rows, with a column of texts and one of numbers."""
    x = torch.randn(300, 12, generator=torch.Generator().manual_seed(0))
    columns = {"weight": np.linspace(0, 1, 300), "note": [f"né {n}" for n in range(300)]}
    path = tmp_path_factory.mktemp("store") / "acts.zarr"
    labels, ids = torch.arange(300) % 3, [f"{n:03}" for n in range(300)]
    options: dict[str, Any] = {"columns": columns, "ids": ids, "class_names": NAMES, "sites": ["relu", "map"]}
    pk.capture(Net(), (x, labels), path, **options, batch_size=32, memory="16KiB")
    return path


@pytest.fixture(scope="module")
def token_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tokens") / "tokens.zarr"
    ids = torch.randint(0, 11, (9, 4), generator=torch.Generator().manual_seed(1))
    mask = (torch.arange(4) < torch.tensor([4, 1, 3, 2, 4, 4, 1, 2, 3])[:, None]).long()
    batches = [{"input_ids": ids[a : a + 3], "attention_mask": mask[a : a + 3]} for a in range(0, 9, 3)]
    texts = [f"text\n{n}" for n in range(9)]
    pk.capture(
        Tokens(), batches, path, sites="embed", reduce="tokens", labels=np.arange(9) % 2, columns={"text": texts}
    )
    return path


def of_npy(path: Path, site: str) -> dict[str, Any]:
    texts = {
        file.stem: np.array(json.loads(file.read_text("utf-8")))
        for file in (path / site).glob("*.json")
        if file.stem != "about"
    }
    return texts | {file.stem: np.load(file) for file in (path / site).glob("*.npy")}


def of_safetensors(path: Path, site: str) -> dict[str, Any]:
    return of_npy(path, site) | load_file(path / site / "rows.safetensors")


def of_parquet(path: Path, site: str) -> dict[str, Any]:
    return of_table(pq.read_table(path / f"{site}.parquet"))


def of_datasets(path: Path, site: str) -> dict[str, Any]:
    return of_table(datasets.load_from_disk(str(path))[site].with_format("arrow")[:])


def of_table(table: Any) -> dict[str, Any]:
    return {name: numpy_of(table[name].combine_chunks()) for name in table.column_names}


def numpy_of(column: Any) -> Any:
    lengths = [len(column)]
    while pa.types.is_fixed_size_list(column.type):
        lengths.append(column.type.list_size)
        column = column.flatten()
    return column.to_numpy(zero_copy_only=False).reshape(lengths)


READERS: dict[str, Read] = {
    "npy": of_npy,
    "safetensors": of_safetensors,
    "parquet": of_parquet,
    "datasets": of_datasets,
}
FORMATS = pytest.mark.parametrize("format", READERS)


def rows_in(site: xr.DataTree) -> dict[str, np.ndarray]:
    """What a site of an open store has for each of its rows."""
    dim = site["activation"].dims[0]
    data = site.to_dataset(inherit=False)
    return {str(name): each.values for name, each in data.variables.items() if each.dims[:1] == (dim,)}


@FORMATS
def test_every_column_is_what_the_store_holds(store: Path, tmp_path: Path, format: Any) -> None:
    made = pk.export(store, tmp_path / "out", format, memory="2KiB")
    assert made == tmp_path / "out"
    tree = pk.open(store)
    for site in ("relu", "map"):
        found, expected = READERS[format](made, site), rows_in(tree[site])
        expected.pop("inputs_crc32c", None)
        assert {*expected, "class_name"} <= {*found} | ({"class_name"} if format == "npy" else set())
        for name, values in expected.items():
            np.testing.assert_array_equal(found[name], values.astype(found[name].dtype), name)
        assert found["activation"].dtype == np.float32
        assert found["sample_id"][7] == "007"


@FORMATS
def test_classes_go_along_by_name(store: Path, tmp_path: Path, format: Any) -> None:
    made = pk.export(store, tmp_path / "out", format, sites="relu")
    found = READERS[format](made, "relu")
    if format in ("npy", "safetensors"):
        assert found["class_name"].tolist() == NAMES
    else:
        assert found["class_name"].tolist() == [NAMES[code] for code in found["label"]]
    if format == "datasets":
        assert datasets.load_from_disk(str(made))["relu"].features["label"].names == NAMES
    if format == "parquet":
        about = json.loads(pq.read_schema(made / "relu.parquet").metadata[b"probekit"])
        assert about["class_name"] == NAMES
        assert about["dims"]["activation"] == ["sample", "node"]
        assert (about["site"], about["type"]) == ("relu", "ReLU")


@FORMATS
def test_sites_and_samples_are_selected(store: Path, tmp_path: Path, format: Any) -> None:
    made = pk.export(store, tmp_path / "out", format, sites="re*", where={"label": ["bée", "ant"]}, memory="1KiB")
    found, whole = READERS[format](made, "relu"), rows_in(pk.open(store)["relu"])
    kept = np.isin(whole["label"], [0, 1])
    np.testing.assert_array_equal(found["activation"], whole["activation"][kept])
    np.testing.assert_array_equal(found["weight"], whole["weight"][kept])
    np.testing.assert_array_equal(found["note"], whole["note"][kept].astype(object))
    assert not any("map" in name for name in files(made))


@FORMATS
def test_tokens_have_their_columns_and_samples_their_texts(token_store: Path, tmp_path: Path, format: Any) -> None:
    made = pk.export(token_store, tmp_path / "out", format, memory="200B")
    found, expected = READERS[format](made, "embed"), rows_in(pk.open(token_store)["embed"])
    assert {"position", "token_id", "sample_id", "label"} <= {*expected}
    for name, values in expected.items():
        np.testing.assert_array_equal(found[name], values, name)
    assert len(found["activation"]) == 24
    assert "text" not in found
    samples = READERS[format](made, "(samples)")
    assert samples["text"].tolist() == [f"text\n{n}" for n in range(9)]
    np.testing.assert_array_equal(samples["sample_id"][found["sample_id"]], expected["sample_id"])


@FORMATS
@pytest.mark.parametrize("dtype", ["float16", "float64"])
def test_the_dtype_stays(tmp_path: Path, format: Any, dtype: Any) -> None:
    pk.capture(torch.nn.ReLU().double(), torch.rand(5, 3, dtype=torch.float64), tmp_path / "a.zarr", dtype=dtype)
    found = READERS[format](pk.export(tmp_path / "a.zarr", tmp_path / "out", format), "(root)")
    expected = pk.open(tmp_path / "a.zarr")["(root)"]["activation"].values
    np.testing.assert_array_equal(np.asarray(found["activation"], dtype), expected)


def test_a_mask_goes_along(tmp_path: Path) -> None:
    ids, mask = torch.randint(0, 11, (6, 4)), (torch.arange(4) < torch.arange(1, 7)[:, None]).long()
    pk.capture(Tokens(), [{"input_ids": ids, "attention_mask": mask}], tmp_path / "a.zarr", sites="embed")
    for format, read in READERS.items():
        found = read(pk.export(tmp_path / "a.zarr", tmp_path / format, format), "embed")  # type: ignore[arg-type]
        np.testing.assert_array_equal(found["mask"], mask.numpy().astype(bool))


def test_what_probekit_loads_again_is_a_data_set(store: Path, tmp_path: Path) -> None:
    made = pk.export(store, tmp_path / "out", "datasets", sites="relu")
    found = datasets.load_from_disk(str(made / "relu"))
    assert found.num_rows == 300
    assert json.loads(found.info.description)["site"] == "relu"
    assert not list(made.glob("*.table"))


def test_progress_counts_the_reads(store: Path, tmp_path: Path) -> None:
    told: list[Any] = []

    def count(items: Any, /, description: str, total: int | None = None) -> Iterator[Any]:
        steps = list(items)
        told.append((description, total, len(steps)))
        yield from steps

    for format in READERS:
        pk.export(store, tmp_path / format, format, memory="2KiB", progress=count)  # type: ignore[arg-type]
    for (description, total, steps), format in zip(told, READERS, strict=True):
        assert description == f"export to {format}"
        assert total == steps > 10


def test_nothing_is_left_of_an_export_that_fails(store: Path, tmp_path: Path) -> None:
    def stop(items: Any, /, description: str, total: int | None = None) -> Iterator[Any]:
        yield next(iter(items))
        raise KeyboardInterrupt

    for format in READERS:
        with pytest.raises(KeyboardInterrupt):
            pk.export(store, tmp_path / "out", format, memory="2KiB", progress=stop)  # type: ignore[arg-type]
        assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({"format": "hdf5"}, DataError, "format is 'hdf5'; it is 'npy', 'safetensors', 'parquet' or 'datasets'"),
        ({"sites": "gelu"}, SiteError, "gelu"),
        ({"where": {"label": "dog"}}, DataError, "asks for the class 'dog'"),
        ({"where": {"weight": [9.0]}}, DataError, "selects none of the 300 samples"),
        ({"memory": "much"}, ProbekitError, "'much' is not a size"),
        ({"path": "s3://bucket/out"}, StoreError, "path is 's3://bucket/out'"),
        ({"store": "nowhere.zarr"}, StoreError, "no store"),
        ({"store": 3}, DataError, "store is an int, 3"),
    ],
)
def test_what_is_wrong_is_said(
    store: Path, tmp_path: Path, options: dict[str, Any], kind: type[Exception], message: str
) -> None:
    with pytest.raises(kind, match=message):
        pk.export(**({"store": store, "path": tmp_path / "out", "format": "npy"} | options))
    assert list(tmp_path.iterdir()) == []


def test_what_is_there_stays(store: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match=r"file/out can't be made: .*file is a file"):
        pk.export(store, tmp_path / "file" / "out", "npy")
    (tmp_path / "out").mkdir()
    with pytest.raises(StoreError, match="exists already"):
        pk.export(store, tmp_path / "out", "npy")
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize(("format", "package"), [("parquet", "pyarrow"), ("datasets", "datasets")])
def test_a_missing_library_is_named_with_its_command(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, format: Any, package: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ModelError, match=rf"{package} can't be imported.*pip install"):
        pk.export(store, tmp_path / "out", format)
    assert list(tmp_path.iterdir()) == []
