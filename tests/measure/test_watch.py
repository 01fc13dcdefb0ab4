"""Metrics during training: the training is as without them, and every measured step outlives a kill."""

from __future__ import annotations

import itertools
import os
import random
import shutil
import signal
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
import zarr
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import probekit as pk
from probekit._measure.watch import Watch
from probekit.errors import DataError, PluginError, SiteError, StoreError
from tests import processes
from tests.models import mlp, samples

X, Y = samples(60, 3)
METRICS = ["mean", "sparsity", "cka"]


def train(model: nn.Module, steps: range, at: Callable[[int], Any]) -> None:
    """Plain gradient descent, by which a step's number says what the weights are."""
    for step in steps:
        at(step)
        model.zero_grad()
        nn.functional.cross_entropy(model(X), Y).backward()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter -= 0.3 * parameter.grad  # type: ignore[operator]


def opened(path: Path) -> xr.DataTree:
    """The result as anyone's xarray opens it, read whole."""
    with xr.open_datatree(path, engine="zarr") as tree:
        return tree.load()


def in_memory(steps: range, metrics: Any = METRICS, **options: Any) -> xr.DataTree:
    model = mlp(700)
    watch = Watch(model, (X, Y), metrics, every=1, **options)
    train(model, steps, watch)
    return watch.results


def test_each_step_has_the_numbers_of_its_weights() -> None:
    model, expected = mlp(700), []
    watch = Watch(model, (X, Y), ["sparsity", "mean"], every=3, sites="1")

    def at(step: int) -> None:
        tree = watch(step)
        assert (tree is None) == (step % 3 != 0)
        if tree is not None:
            active = torch.relu(X @ model[0].weight.T + model[0].bias).detach().numpy()
            expected.append([(active[label == Y] == 0).mean(0) for label in range(3)])
            np.testing.assert_allclose(tree["1"]["mean"].sel(label=2), active[Y == 2].mean(0), rtol=1e-5, atol=1e-6)

    train(model, range(8), at)
    results = watch.results
    assert results["1"]["sparsity"].dims == ("step", "label", "node")
    assert results["1"]["step"].values.tolist() == [0, 3, 6]
    np.testing.assert_allclose(1 - results["1"]["sparsity"], 1 - np.array(expected), atol=1e-12)
    assert results["1"].attrs["type"] == "ReLU"
    assert results["1"]["mean"].attrs["n"] == 60
    assert results.attrs == pk.measure_live(model, (X, Y), "mean", sites="1").attrs


@pytest.mark.parametrize(
    ("every", "due"),
    [(4, [0, 4, 8]), (1, list(range(10))), ({0, 1, 2, 8, 100}, [0, 1, 2, 8]), (np.array([3, 5]), [3, 5])],
)
def test_every_says_which_steps_are_due(every: Any, due: list[int]) -> None:
    watch = Watch(nn.ReLU(), X, "mean", every=every)
    assert [step for step in range(10) if watch(step) is not None] == due
    assert watch.results["step"].values.tolist() == due


class _Drawing(TensorDataset):
    """A data set that draws from every generator there is."""

    def __getitem__(self, index: int) -> tuple[Tensor, ...]:
        noise = random.random() + np.random.rand() + torch.rand(())  # noqa: NPY002
        return tuple(part + 0 * noise for part in super().__getitem__(index)[:1]) + super().__getitem__(index)[1:]


def _trained(watched: Callable[[nn.Module, Any], Callable[[int], Any]]) -> tuple[dict[str, Tensor], nn.Module]:
    """The weights after a training in which much is random; all of it from the global generators, or a loader's."""
    random.seed(1)
    np.random.seed(1)  # noqa: NPY002
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Dropout(0.3), nn.ReLU(), nn.Linear(8, 3))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    shuffled = DataLoader(
        _Drawing(X, Y), batch_size=15, shuffle=True, generator=torch.Generator().manual_seed(3), num_workers=0
    )
    watch, step = watched(model, shuffled), 0
    for _ in range(3):
        for x, y in DataLoader(_Drawing(X, Y), batch_size=20, shuffle=True):
            watch(step)
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()
            watch(step := step + 1)
        for x, _ in shuffled:  # its generator draws as if nobody else had read it
            model(x + random.random() + np.random.rand())  # noqa: NPY002
    return model.state_dict(), model


@pytest.mark.parametrize("mode", ["eval", "train"])
@pytest.mark.parametrize("sites", ["**", ["3:grad", "3"]])
def test_training_gives_the_same_bits_with_and_without(tmp_path: Path, mode: str, sites: Any) -> None:
    def watched(model: nn.Module, loader: Any) -> Callable[[int], Any]:
        watch = Watch(model, loader, "mean", every=2, sites=sites, mode=mode, out=tmp_path / "watch.zarr")
        done = set[int]()
        return lambda step: None if step in done or done.add(step) else watch(step)  # type: ignore[func-returns-value]

    with_watch, model = _trained(watched)
    without, _ = _trained(lambda model, loader: lambda step: None)
    assert all(torch.equal(with_watch[name], value) for name, value in without.items())
    assert opened(tmp_path / "watch.zarr")["3"].sizes["step"] == 5
    assert model.training
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_gradients_are_left_alone_and_adding_up_goes_on() -> None:
    model = mlp(700)
    nn.functional.cross_entropy(model(X), Y).backward()
    before = {
        name: parameter.grad.clone() for name, parameter in model.named_parameters() if parameter.grad is not None
    }
    Watch(model, (X, Y), "mean", sites="1:grad")(0)
    assert all(torch.equal(before[name], parameter.grad) for name, parameter in model.named_parameters())  # type: ignore[arg-type]


def test_on_disk_is_what_is_in_memory_over_many_chunks(tmp_path: Path) -> None:
    # 12 steps: of 700 nodes, one to five share a chunk; the atoms of a histogram grow and shrink as the model trains.
    options: dict[str, Any] = {"sites": ["1", "2"]}
    watch = Watch(model := mlp(700), (X, Y), METRICS, every=1, out=tmp_path / "watch.zarr", **options)
    train(model, range(12), watch)
    expected = in_memory(range(12), **options)
    xr.testing.assert_identical(opened(tmp_path / "watch.zarr"), expected)
    xr.testing.assert_identical(watch.results.load(), expected)
    xr.testing.assert_equal(
        xr.open_zarr(tmp_path / "watch.zarr", group="1")["mean"].load().drop_vars(["label", "class_name"]),
        expected["1"]["mean"].drop_vars(["label", "class_name", "step"]),
    )


def test_dims_whose_length_depends_on_the_data_are_as_long_as_the_longest(tmp_path: Path) -> None:
    data, model, alone = X[:, :2].clone(), nn.Sequential(nn.ReLU()), list[xr.DataTree]()
    watches = [Watch(model, (data, Y), "histogram", every=1, out=out) for out in (None, tmp_path / "watch.zarr")]
    for step, repeated in enumerate([0, 25, 0]):  # a value that many samples have is an atom
        data[:repeated] = 1.5
        data[repeated:] = X[repeated:, :2]
        alone.append(pk.measure_live(model, (data, Y), "histogram"))
        for watch in watches:
            watch(step)
    xr.testing.assert_identical(watches[1].results.load(), watches[0].results)
    lengths = [tree["0"].sizes["atom"] for tree in alone]
    assert lengths[0] < lengths[1] > lengths[2]
    atom = watches[1].results["0"]["histogram_atom"]
    assert atom.shape == (3, 2, lengths[1])
    for step, tree in enumerate(alone):
        length = tree["0"].sizes["atom"]
        np.testing.assert_array_equal(atom[step, :, :length], tree["0"]["histogram_atom"])
        assert atom[step, :, length:].isnull().all()
    counts = watches[1].results["0"]["histogram_atoms"]
    assert counts.dtype == np.int64
    assert not counts.isel(step=0, atom=slice(lengths[0], None)).any()


def test_a_reader_sees_the_committed_steps_while_it_grows(tmp_path: Path) -> None:
    model = mlp(700)
    watch = Watch(model, (X, Y), METRICS, every=1, out=tmp_path / "watch.zarr", sites=["1", "2"])

    def at(step: int) -> None:
        watch(step)
        assert opened(tmp_path / "watch.zarr")["step"].values.tolist() == list(range(step + 1))

    train(model, range(4), at)


def test_a_store_begins_with_its_first_step(tmp_path: Path) -> None:
    watch = Watch(mlp(700), (X, Y), METRICS, every=2, out=tmp_path / "watch.zarr", sites="1")
    with pytest.raises(DataError, match="Nothing has been measured yet"):
        _ = watch.results
    assert not any(tmp_path.iterdir())
    watch(0)
    assert [each.name for each in tmp_path.iterdir()] == ["watch.zarr"]


def trained(out: Path, first: int, last: int) -> None:
    """A training that resumes from its checkpoint of step `first`."""
    model = mlp(700)
    train(model, range(first), lambda step: None)
    watch = Watch(model, (X, Y), METRICS, every=1, out=out, resume=True, sites=["1", "2"])
    train(model, range(first, last), watch)


def killed(out: Path, first: int, last: int, file: int) -> None:
    """The same, killed as it puts its file number `file` in place."""
    replace, files = os.replace, itertools.count(1)

    def counted(source: Any, target: Any) -> None:
        if next(files) == file:
            os.kill(os.getpid(), signal.SIGKILL)
        replace(source, target)

    os.replace = counted  # type: ignore[assignment]  # of a process that ends with it
    trained(out, first, last)


@pytest.fixture(scope="module")
def whole() -> xr.DataTree:
    """Nine steps that nothing killed."""
    return in_memory(range(9), sites=["1", "2"])


@pytest.fixture(scope="module")
def eight(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight steps on disk."""
    out = tmp_path_factory.mktemp("eight") / "watch.zarr"
    trained(out, 0, 8)
    return out


def assert_has(out: Path, expected: xr.DataTree) -> int:
    """How many steps the store holds, which are the first of `expected`, to the bit."""
    found = opened(out)
    count = found.sizes["step"]
    xr.testing.assert_identical(found, expected.isel(step=slice(count)))
    return count


# That a step writes: its number and that of all steps, four variables of each of two sites, two of cka, the record.
FILES = 2 + 2 * 4 + 2 + 1


@pytest.mark.parametrize(
    ("file", "committed"), [(1, 1), (FILES - 1, 1), (FILES, 1), (FILES + 1, 2), (5 * FILES + 6, 6)]
)
def test_a_kill_between_any_two_files_leaves_every_committed_step(
    tmp_path: Path, whole: xr.DataTree, file: int, committed: int
) -> None:
    out = tmp_path / "watch.zarr"
    assert processes.run(killed, out, 0, 9, file).status == -signal.SIGKILL
    assert assert_has(out, whole) == committed
    trained(out, committed, 9)
    assert assert_has(out, whole) == 9


@pytest.mark.parametrize(("file", "committed"), [(1, 8), (2, 8), (3, 3), (FILES // 2, 3), (FILES + 3, 4)])
def test_a_kill_while_steps_are_replaced_leaves_those_before(
    tmp_path: Path, whole: xr.DataTree, eight: Path, file: int, committed: int
) -> None:
    out = Path(shutil.copytree(eight, tmp_path / "watch.zarr"))
    assert processes.run(killed, out, 3, 9, file).status == -signal.SIGKILL  # the second file drops the steps from 3 on
    assert assert_has(out, whole) == committed
    if file == 3:
        trained(out, 3, 9)
        assert assert_has(out, whole) == 9


@pytest.mark.parametrize("share", [0.3, 0.7])
def test_a_kill_by_the_clock_leaves_every_committed_step(tmp_path: Path, whole: xr.DataTree, share: float) -> None:
    out = tmp_path / "watch.zarr"
    longest = processes.run(trained, tmp_path / "timed.zarr", 0, 9).seconds
    processes.run(trained, out, 0, 9, seconds=share * longest)
    done = assert_has(out, whole) if out.exists() else 0  # the first step may not have been there yet
    trained(out, done, 9)
    assert assert_has(out, whole) == 9


def test_resume_replaces_the_steps_that_a_checkpoint_repeats(tmp_path: Path) -> None:
    def watch(model: nn.Module) -> Watch:
        return Watch(
            model,
            (X, Y),
            [*METRICS, "selectivity"],
            every=2,
            out=tmp_path / "watch.zarr",
            resume=True,
            sites=["1", "2"],
        )

    train(model := mlp(700), range(9), watch(model))
    before = opened(tmp_path / "watch.zarr")
    model = mlp(700)
    train(model, range(5), lambda step: None)
    with torch.no_grad():
        model[0].weight += 1  # so that the repeated steps differ
    train(model, range(5, 8), watch(model))
    after = opened(tmp_path / "watch.zarr")
    assert after["step"].values.tolist() == [0, 2, 4, 6]
    xr.testing.assert_identical(after.isel(step=slice(3)), before.isel(step=slice(3)))
    assert not after["1"]["mean"].sel(step=6).equals(before["1"]["mean"].sel(step=6))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"sites": ["1"]}, r"Step 4 .*2/kind was output and is not there"),
        ({"metrics": ["mean", "std"]}, r"1/sparsity was float64 \(label: 3, node: 700\).* and is not there"),
        ({"metrics": ["mean", "sparsity:threshold=1.0"]}, r"threshold\": 0.0} and is .*threshold\": 1.0}"),
        ({"model": nn.Sequential(nn.Linear(6, 20), nn.ReLU(), nn.Linear(20, 3))}, r"node: 700\) .* node: 20\)"),
        ({"data": (X, Y % 2)}, r"1/label was \[0, 1, 2\] and is \[0, 1\]"),
        ({"class_names": ["ant", "bee", "cat"]}, r"class_name was .*'ant', 'bee', 'cat'"),
        ({"mode": "train"}, r"mode was eval and is train"),
        ({"by": None}, r"by was label and is none"),
    ],
)
def test_what_does_not_fit_the_steps_there_is_refused(tmp_path: Path, changed: dict[str, Any], message: str) -> None:
    out = tmp_path / "watch.zarr"
    given: dict[str, Any] = {"model": mlp(700), "data": (X, Y), "metrics": ["mean", "sparsity"], "sites": ["1", "2"]}
    Watch(**given, out=out)(0)
    before = opened(out)
    with pytest.raises(StoreError, match=message) as raised:
        Watch(**given | changed, every=4, out=out, resume=True)(4)
    assert "watch.zarr" in str(raised.value)
    xr.testing.assert_identical(opened(out), before)


def test_what_lies_there_is_refused_without_resume(tmp_path: Path) -> None:
    out = tmp_path / "watch.zarr"
    Watch(mlp(700), (X, Y), "mean", out=out)(0)
    with pytest.raises(StoreError, match=r"watch.zarr exists already. Resume it with resume=True"):
        Watch(mlp(700), (X, Y), "mean", out=out)
    pk.capture(mlp(700), (X, Y), tmp_path / "acts.zarr", sites="1")
    (tmp_path / "empty").mkdir()
    pk.measure(tmp_path / "acts.zarr", "mean", out=tmp_path / "measured.zarr")
    for other in ("acts.zarr", "empty", "measured.zarr"):
        with pytest.raises(StoreError, match="wasn't written by a Watch"):
            Watch(mlp(700), (X, Y), "mean", out=tmp_path / other, resume=True)


def test_two_writers_are_refused(tmp_path: Path) -> None:
    out, options = tmp_path / "watch.zarr", {"every": 1, "resume": True}
    first = Watch(mlp(700), (X, Y), "mean", out=out, **options)
    late = Watch(mlp(700), (X, Y), "mean", out=out, **options)
    first(0)
    with pytest.raises(StoreError, match="has been created since"):
        late(0)
    second = Watch(mlp(700), (X, Y), "mean", out=out, **options)
    second(1)
    with pytest.raises(StoreError, match="Another process has written"):
        first(1)
    assert opened(out)["step"].values.tolist() == [0, 1]


class _Faulty(nn.Module):
    faulty = False

    def forward(self, x: Tensor) -> Tensor:
        return x / 0 - x / 0 if self.faulty else x


def test_a_step_that_fails_leaves_the_others_and_the_next_is_measured(tmp_path: Path) -> None:
    model = nn.Sequential(_Faulty())
    watch = Watch(model, (X, Y), "mean", every=1, out=tmp_path / "watch.zarr", sites="0")
    watch(0)
    model[0].faulty = True
    with pytest.raises(DataError, match="gave NaN"):
        watch(1)
    model[0].faulty = False
    watch(2)
    assert opened(tmp_path / "watch.zarr")["step"].values.tolist() == [0, 2]


def test_attributes_are_those_of_the_last_step(tmp_path: Path) -> None:
    data = X.clone()
    watches = [
        Watch(nn.Sequential(nn.ReLU()), (data, Y), "mean", every=1, out=out, nan="omit", sites="0")
        for out in (None, tmp_path / "watch.zarr")
    ]
    for step, faulty in enumerate([0, 2]):
        data[:faulty, 0] = torch.nan
        for watch in watches:
            watch(step)
    for watch in watches:
        assert watch.results["0"]["mean"].attrs["omitted"] == 2
        assert watch.results["0"]["mean"].attrs["n"] == 58


class _Writer:
    def __init__(self) -> None:
        self.scalars: dict[tuple[str, int], float] = {}

    def add_scalar(self, tag: str, scalar_value: float, global_step: int) -> None:
        self.scalars[tag, global_step] = scalar_value


def test_a_log_is_given_scalars_and_means() -> None:
    model, writer = mlp(700), _Writer()
    watch = Watch(model, (X, Y), ["sparsity", "perplexity", "cka"], every=5, sites=["1", "2"], log=writer)
    watch(0)
    watch(5)
    last = watch.results.isel(step=-1)
    assert {tag for tag, _ in writer.scalars} >= {"probekit/1/sparsity", "probekit/1/sparsity_site", "probekit/cka"}
    assert {step for _, step in writer.scalars} == {0, 5}
    assert writer.scalars["probekit/1/sparsity_site", 5] == float(last["1"]["sparsity_site"])
    assert writer.scalars["probekit/1/sparsity", 5] == pytest.approx(float(last["1"]["sparsity"].mean()))
    assert writer.scalars["probekit/cka", 5] == pytest.approx(float(last["cka"].mean()))


@pk.metric
def undefined(x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Nothing at every node."""
    return np.full(x.shape[1], np.nan)


def test_a_mean_is_that_of_the_values_that_are_defined() -> None:
    writer, model = _Writer(), nn.Sequential(nn.ReLU())
    tree = Watch(model, (X, 2 * Y), ["mean", undefined], sites="0", log=writer)(0)  # no sample has the label 1
    assert tree is not None
    assert tree["0"]["mean"].isnull().any()
    assert writer.scalars.keys() == {("probekit/0/mean", 0)}
    expected = np.mean([torch.relu(X[label == Y]).mean(0).numpy() for label in range(3)])
    assert writer.scalars["probekit/0/mean", 0] == pytest.approx(expected, rel=1e-6)


@pytest.mark.filterwarnings("ignore")  # of protobuf and setuptools, at the import
def test_a_summary_writer_has_them(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(tmp_path) as writer:
        watch = Watch(mlp(700), (X, Y), "sparsity", every=5, sites="1", log=writer)
        watch(0)
        watch(5)
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    found = events.Scalars("probekit/1/sparsity_site")
    assert [event.step for event in found] == [0, 5]
    assert found[1].value == pytest.approx(float(watch.results["1"]["sparsity_site"][1]), rel=1e-6)


def _batches() -> Iterator[Tensor]:
    yield X


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: Watch(mlp(700), X, "meen"), PluginError, "meen"),
        (lambda: Watch(mlp(700), X, "mean", site="1"), TypeError, "site"),
        (lambda: Watch(mlp(700), _batches(), "mean"), DataError, "generator gives its batches once"),
        (lambda: Watch(mlp(700), X, "mean", every=0), DataError, "every is 0"),
        (lambda: Watch(mlp(700), X, "mean", every="10"), DataError, "every is '10'"),
        (lambda: Watch(mlp(700), X, "mean", every=2.5), DataError, "every is 2.5"),
        (lambda: Watch(mlp(700), X, "mean", resume=True), DataError, "no out= was given"),
        (lambda: Watch(mlp(700), X, "mean", log=[]), DataError, "log is a list, which has no add_scalar"),
        (lambda: Watch(mlp(700), X, "mean", sites="9")(0), SiteError, "'9'"),
        (lambda: Watch(mlp(700), X, "mean")(1.5), DataError, "step is a float, 1.5"),
        (lambda: [Watch(nn.ReLU(), X, "mean")(0), watch_twice()], DataError, "Step 0 doesn't come after step 100"),
    ],
)
def test_wrong_inputs_are_refused(make: Callable[[], object], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        make()


def watch_twice() -> None:
    watch = Watch(nn.ReLU(), X, "mean")
    watch(100)
    watch(0)


def test_steps_stay_when_a_user_consolidates_their_metadata(tmp_path: Path) -> None:
    model, data, out = mlp(8), samples(), tmp_path / "w.zarr"
    watch = Watch(model, data, ["mean", "histogram"], every=1, sites="1", out=out)
    kept = []
    for step in range(3):
        kept.append(watch(step))
        with torch.no_grad():
            model[0].weight.mul_(0)  # so that there are more atoms
    before = watch.results.load()
    with warnings.catch_warnings(action="ignore"):
        zarr.consolidate_metadata(out)
    again = Watch(model, data, ["mean", "histogram"], every=1, sites="1", out=out, resume=True)
    xr.testing.assert_equal(xr.open_datatree(out, engine="zarr").load(), before)
    again(3)
    assert again.results["step"].values.tolist() == [0, 1, 2, 3]
    xr.testing.assert_equal(again.results.isel(step=slice(3)).load(), before)
