"""Stores and results of the code as it was before its modules were moved: they are read, resumed and added to."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import TypeAlias

import numpy as np
import pytest
import torch
import xarray as xr

import probekit as pk
from probekit.errors import StoreError
from tests.old_stores import made
from tests.stores import opened

OLD = Path(made.__file__).parent
Resuming: TypeAlias = Callable[[], AbstractContextManager[object]]
NO_CHECKSUMS = partial(pytest.warns, UserWarning, match="was captured before checksums were kept, so the inputs of")


@pytest.fixture(params=[1, 2])
def version(request: pytest.FixtureRequest) -> int:
    """Of the stores' format; version 1 had no checksums of inputs when these were made."""
    return int(request.param)


@pytest.fixture
def old(version: int, tmp_path: Path) -> Iterator[Path]:
    """Copies of all of them, which keep their version."""
    folder = Path(shutil.copytree(OLD, tmp_path / "old"))
    if version == 2:
        shutil.copytree(OLD / "format_2", folder, dirs_exist_ok=True)
    yield folder
    for name in ("finished", "stopped"):
        assert opened(folder / name).attrs["probekit_format"] == version


@pytest.fixture
def resuming(version: int) -> Resuming:
    """Expects a warning where inputs can't be compared."""
    return NO_CHECKSUMS if version == 1 else nullcontext


def expected(first: int = 0, samples: int = made.SAMPLES) -> dict[str, np.ndarray]:
    """What the two sites hold, by hand."""
    model, embed, mix = made.model(), [], []
    with torch.no_grad():
        for batch in made.batches(first, samples):
            real = batch["attention_mask"].bool()
            tokens = model[0](batch["input_ids"])
            embed += [row[mask].mean(0) for row, mask in zip(tokens, real, strict=True)]
            mix.append(model(batch["input_ids"], real)[real])
    return {"embed": torch.stack(embed).numpy(), "mix": torch.cat(mix).numpy()}


def assert_holds(store: Path, samples: int = made.SAMPLES) -> None:
    tree = pk.open(store)
    for site, values in expected(samples=samples).items():
        np.testing.assert_allclose(tree[site]["activation"].values, values, rtol=1e-6, atol=1e-7)
    np.testing.assert_array_equal(tree["label"].values, np.arange(samples) % 3)
    assert tree["class_name"].values.tolist() == made.NAMES
    assert pk.verify(store)


def renamed(tree: xr.DataTree) -> xr.DataTree:
    """The tree with the name that the attribute `dtype` of results has now: xarray reads ``dtype="bool"`` itself."""
    for site in tree.children.values():
        for variable in site.data_vars.values():
            variable.attrs = {{"dtype": "activation_dtype"}.get(key, key): of for key, of in variable.attrs.items()}
    return tree


def test_a_store_is_read_verified_and_described(old: Path) -> None:
    assert_holds(old / "finished")
    mix = pk.open(old / "finished")["mix"]
    lengths = [1 + sample % 5 for sample in range(made.SAMPLES)]
    np.testing.assert_array_equal(mix["sample_id"].values, np.repeat(np.arange(made.SAMPLES), lengths))
    np.testing.assert_array_equal(mix["position"].values, np.concatenate([np.arange(each) for each in lengths]))
    found = pk.info(old / "finished")
    assert (found.rows, found.complete, found.classes) == (12, True, dict.fromkeys(made.NAMES, 4))
    rows, labels = pk.as_dataset(pk.open(old / "finished")["embed"])[:]
    np.testing.assert_allclose(rows, expected()["embed"], rtol=1e-6, atol=1e-7)
    assert labels.tolist() == [0, 1, 2] * 4


def test_a_stopped_capture_is_a_prefix_and_is_finished(old: Path, resuming: Resuming) -> None:
    with resuming():
        pk.capture(made.model(), made.batches(), old / "stopped", resume=True, **made.OPTIONS)
    pk.capture(made.model(), made.batches(), old / "finished", resume=True, **made.OPTIONS)  # it stays as it is
    for store in (old / "stopped", old / "finished"):
        assert_holds(store)


def test_a_damage_is_repaired_and_captured_again(old: Path, resuming: Resuming) -> None:
    (old / "finished/mix/activation/c/7/0").unlink()
    kept = pk.verify(old / "finished", repair=True).kept
    assert kept is not None
    assert opened(old / "finished").sizes["sample"] == kept < made.SAMPLES
    with resuming():
        pk.capture(made.model(), made.batches(), old / "finished", resume=True, **made.OPTIONS)
    assert_holds(old / "finished")


def test_samples_and_sites_are_added(old: Path, resuming: Resuming) -> None:
    more = made.batches(made.SAMPLES, 6 * 4)
    pk.capture(made.model(), more, old / "finished", append="samples", **made.OPTIONS)
    assert_holds(old / "finished", 9 * 4)
    added = made.OPTIONS | {"sites": "(root)", "reduce": "last"}
    with resuming():
        tree = pk.capture(made.model(), made.batches(samples=9 * 4), old / "finished", append="sites", **added)
    assert set(tree.children) == {"embed", "mix", "(root)"}
    last = np.cumsum([1 + sample % 5 for sample in range(9 * 4)]) - 1
    np.testing.assert_allclose(tree["(root)"]["activation"].values, expected(samples=9 * 4)["mix"][last], rtol=1e-6)
    assert pk.verify(old / "finished")


def as_written(measured: xr.DataTree) -> xr.DataTree:
    """The results as earlier versions wrote them: without headlines, classes, tokens, or positions."""
    found = measured.copy()
    for group in found.subtree:
        for name in group.data_vars:
            for later in ("headline", "positions", "classes", "tokens"):
                group[name].attrs.pop(later, None)
    return found


def test_results_are_those_that_are_measured_now(old: Path) -> None:
    before = renamed(xr.open_datatree(old / "measured", engine="zarr").load())
    now = pk.measure(old / "finished", made.METRICS)
    assert list(before.children) == list(now.children) == ["embed", "mix"]
    for site in now.children:
        now[site].attrs = {key: now[site].attrs[key] for key in before[site].attrs}  # which say more of later stores
        later = as_written(now)[site].to_dataset()
        xr.testing.assert_identical(before[site].to_dataset(), later)
    assert pk.summary(before).headlines.keys() <= pk.summary(now).headlines.keys()
    with pytest.raises(StoreError, match="exists already"):
        pk.measure(old / "finished", made.METRICS, out=old / "measured")


def test_a_watch_resumes(old: Path) -> None:
    before, model = renamed(xr.open_datatree(old / "watched", engine="zarr").load()), made.model()
    data = list(made.batches())
    options = {"sites": ["embed", "mix"], "class_names": made.NAMES, "every": 1}
    with pytest.raises(StoreError, match="embed/mask was none and is attention_mask"):
        pk.Watch(model, data, made.WATCHED, out=old / "watched", resume=True, **options)(2)
    options["mask"] = False  # earlier versions counted padding
    watch = pk.Watch(model, data, made.WATCHED, out=old / "watched", resume=True, **options)
    for step in range(4):
        if step > 1:  # step 2 is measured again, as after a checkpoint of step 1
            watch(step)
        made.train(model)
    found = xr.open_datatree(old / "watched", engine="zarr").load()
    assert found["step"].values.tolist() == [0, 1, 2, 3]
    xr.testing.assert_identical(as_written(found).isel(step=slice(3)), before)


def test_where_the_metadata_disagree_a_repair_chooses_only_what_is_proved(old: Path, version: int) -> None:
    own = old / "finished/embed/activation/zarr.json"
    node = json.loads(own.read_text())
    own.write_text(json.dumps({**node, "shape": [12, 4]}))
    assert [damage.what for damage in pk.verify(old / "finished").damages] == [
        "its zarr.json disagrees with the commit record"
    ]
    if version == 1:
        with pytest.raises(StoreError, match=r"left as it is: .*of version 1.* either may be the damaged one"):
            pk.verify(old / "finished", repair=True)
        own.unlink()
    assert pk.verify(old / "finished", repair=True).kept == made.SAMPLES
    assert_holds(old / "finished")
