"""A stopped measurement resumes with the tasks that it has done, and with no others."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest
import xarray as xr

import probekit as pk
from probekit.metrics import Block, Variables
from tests.stores import stopped, three_sites


class Counted:
    """A column metric that keeps count of the nodes that it was given."""

    seen: ClassVar[list[int]] = []

    name, parameters = "counted", {}

    def __init__(self, version: int = 1) -> None:
        self.version = version

    def compute(self, block: Block) -> Variables:
        self.seen.append(block.nodes)
        return {"counted": (("node",), block.values[:, -1])}


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """Three sites of 8 nodes."""
    return three_sites(tmp_path / "acts.zarr")


def test_a_stopped_measurement_resumes(store: Path) -> None:
    Counted.seen.clear()
    metrics = [Counted(), "std", "overlap"]
    out = store.parent / "m.zarr"
    stopped(store, metrics, out)
    done = len(Counted.seen)
    found = pk.measure(store, metrics, out=out)
    # The task in progress when the first measurement stopped may have ended after it.
    assert 1 <= done <= 3
    assert len(Counted.seen) <= 2 + done
    assert {path.name for path in out.parent.iterdir()} == {"acts.zarr", "m.zarr"}
    xr.testing.assert_identical(found, pk.measure(store, metrics))


@pytest.mark.parametrize(
    ("metrics", "options"),
    [([Counted(version=2)], {}), ([Counted()], {"by": None}), ([Counted()], {"where": {"label": 1}})],
)
def test_another_measurement_has_nothing_of_one_that_was_stopped(store: Path, metrics: Any, options: Any) -> None:
    out = store.parent / "m.zarr"
    stopped(store, [Counted()], out)
    Counted.seen.clear()
    found = pk.measure(store, metrics, out=out, **options)
    assert len(Counted.seen) == 3
    xr.testing.assert_identical(found, pk.measure(store, metrics, **options))


def test_a_store_that_was_captured_again_is_measured_anew(store: Path) -> None:
    out = store.parent / "m.zarr"
    stopped(store, [Counted()], out)
    Counted.seen.clear()
    three_sites(store, overwrite=True)
    pk.measure(store, [Counted()], out=out)
    assert len(Counted.seen) == 3


def test_two_measurements_into_one_path_are_refused(store: Path) -> None:
    def second(items: Any, /, description: str, total: int | None = None) -> Iterator[Any]:
        with pytest.raises(pk.errors.StoreError, match="Another process is measuring into"):
            pk.measure(store, "mean", out=store.parent / "m.zarr")
        yield from items

    pk.measure(store, "mean", out=store.parent / "m.zarr", progress=second)


def test_a_metric_that_was_typed_in_is_never_taken_for_another(store: Path) -> None:
    def typed(shift: float) -> Any:
        """The class Typed, as a prompt gives it: of no module whose source can be read."""
        code = "class Typed:\n    name, version, parameters = 'typed', 1, {}\n"
        code += (
            f"    def compute(self, block):\n        return {{'typed': (('node',), block.values[:, 0] * 0 + {shift})}}"
        )
        names: dict[str, Any] = {"__name__": "__typed__"}
        exec(code, names)
        return names["Typed"]()

    out = store.parent / "m.zarr"
    stopped(store, [typed(1.0)], out)
    found = pk.measure(store, [typed(2.0)], out=out)
    assert {float(value) for site in found.children.values() for value in site["typed"].values} == {2.0}
