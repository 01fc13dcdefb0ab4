"""A stopped capture, at any moment and by anything, goes on to the same bits; with anything else it does not."""

import random
import shutil
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import probekit as pk
from probekit.errors import DataError, ModelError, StoreError

X = torch.randn(95, 6, generator=torch.Generator().manual_seed(0))
Y = torch.arange(95) % 4


def mlp(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 300), nn.ReLU(), nn.Linear(300, 3))


def files(store):
    """Every file of a store; of the record, all but the time of its making."""
    found = {}
    for file in sorted(Path(store).rglob("*")):
        if file.is_file():
            text = file.read_bytes()
            found[str(file.relative_to(store))] = text if file.name != "zarr.json" else timeless(text)
    return found


def timeless(record):
    return b'"created": ""'.join([record.partition(b'"created": "')[0], record.partition(b'"created": "')[2][25:]])


class Stopping:
    """Batches of a data set, of which one raises; counts those that were given."""

    def __init__(self, at=None, size=10, x=X, y=Y):
        self.at, self.size, self.x, self.y = at, size, x, y

    def __iter__(self):
        for start in range(0, len(self.x), self.size):
            if start == self.at:
                raise KeyboardInterrupt
            yield self.x[start : start + self.size], self.y[start : start + self.size]


class Counting(nn.Sequential):
    forwards = 0

    def forward(self, x):
        self.forwards += len(x)
        return super().forward(x)


def counting():
    torch.manual_seed(0)
    return Counting(nn.Linear(6, 300), nn.ReLU(), nn.Linear(300, 3))


SMALL = 2 * 20 * 303 * 4 * 2  # two batches in a chunk row


@pytest.mark.parametrize("at", [10, 20, 50, 90])
@pytest.mark.parametrize("dtype", [None, "bfloat16"])
def test_what_was_stopped_goes_on_to_the_same_bits_without_running_a_batch_twice(tmp_path, at, dtype):
    options = {"sites": ["1", "2"], "memory": SMALL, "dtype": dtype}
    pk.capture(mlp(), Stopping(), tmp_path / "whole", **options)
    with pytest.raises(KeyboardInterrupt):
        pk.capture(mlp(), Stopping(at), tmp_path / "parts", **options)
    with pytest.warns(UserWarning, match=f"the first {at} of"):
        assert pk.open(tmp_path / "parts").sizes["sample"] == at
    model = counting()
    model.__class__.__qualname__, model.__class__.__module__ = "Sequential", nn.Sequential.__module__
    pk.capture(model, Stopping(), tmp_path / "parts", resume=True, **options)
    assert files(tmp_path / "parts") == files(tmp_path / "whole")
    assert model.forwards == (95 - at) + 2 + 3  # and two dry runs


STRADDLING = """
import os, signal, sys, torch, probekit as pk
def batches():
    start = 0
    for size in [20, 7, 20, 3, 20, 20, 5]:
        if start == int(sys.argv[2]):
            os.kill(os.getpid(), signal.SIGKILL)
        yield torch.arange(start, start + size)[:, None].expand(size, 300) / 7, torch.arange(size) % 4
        start += size
pk.capture(torch.nn.ReLU(), batches(), sys.argv[1], memory=2 * 20 * 300 * 4, resume=True)
"""


def test_batches_that_straddle_the_last_commit_go_on_where_it_ended(tmp_path):
    def run(out, stop):
        return subprocess.run([sys.executable, "-c", STRADDLING, str(out), str(stop)], check=False).returncode

    assert run(tmp_path / "whole", -1) == 0
    assert run(tmp_path / "parts", 70) == -signal.SIGKILL  # whole chunk rows of 20 are there, the batches end at 47, 50
    with warnings.catch_warnings(action="ignore"):
        assert pk.open(tmp_path / "parts").sizes["sample"] in (20, 40, 60)
    assert run(tmp_path / "parts", -1) == 0
    assert files(tmp_path / "parts") == files(tmp_path / "whole")


def test_resume_begins_where_there_is_nothing_and_leaves_what_is_complete(tmp_path):
    pk.capture(mlp(), (X, Y), tmp_path / "a", resume=True)
    before = {file: file.stat().st_mtime_ns for file in (tmp_path / "a").rglob("*")}
    pk.capture(mlp(), (X, Y), tmp_path / "a", resume=True)
    assert before == {file: file.stat().st_mtime_ns for file in (tmp_path / "a").rglob("*")}


@pytest.fixture
def stopped(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        pk.capture(mlp(), Stopping(50), tmp_path / "a", sites=["1", "2"], reduce={"1": [0, 1]})
    return tmp_path / "a"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": mlp(1)}, "the model's weights"),
        ({"data": Stopping(x=X + 1)}, "the inputs of the first batch"),
        ({"data": Stopping(size=5)}, "batch_size was 10 and is 5"),
        ({"sites": ["1"]}, "the site '2' isn't asked for now"),
        ({"sites": ["0", "1", "2"]}, "the site '0' is not in the store"),
        ({"reduce": {"1": [0, 2]}}, r"reduce of '1' was .*\[0, 1\]"),
        ({"dtype": "float16"}, "data_type of '1' was float32 and is float16"),
        ({"compression": "fast"}, "codecs of '1'"),
        ({"mode": "train"}, "mode was 'eval' and is 'train'"),
        ({"columns": {"split": "test"}}, "the column 'split' is not in the store"),
        ({"labels": False, "data": [X[:10]]}, "the column 'label' isn't asked for now"),
    ],
)
def test_going_on_with_something_else_is_refused_and_named(stopped, change, message):
    before = files(stopped)
    model, data = change.pop("model", None) or mlp(), change.pop("data", None) or Stopping()
    options = {"sites": ["1", "2"], "reduce": {"1": [0, 1]}} | change
    with pytest.raises(StoreError, match=f"was made otherwise, so it can't be gone on with: .*{message}"):
        pk.capture(model, data, stopped, resume=True, **options)
    assert files(stopped) == before


def test_other_labels_or_another_order_are_refused_at_the_first_sample_that_differs(stopped):
    y = Y.clone()
    y[[33, 34]] = y[[34, 33]]
    options = {"sites": ["1", "2"], "reduce": {"1": [0, 1]}, "resume": True}
    with pytest.raises(DataError, match="label of sample 33 is 2 and was 1"):
        pk.capture(mlp(), Stopping(y=y), stopped, **options)
    with pytest.raises(DataError, match=r"The data hold 30 samples, and .* has 50 of them already"):
        pk.capture(mlp(), Stopping(x=X[:30], y=Y[:30]), stopped, **options)
    pk.capture(mlp(), Stopping(), stopped, **options)
    np.testing.assert_array_equal(pk.open(stopped)["label"].values, Y)


def test_a_damaged_last_tile_is_named_with_what_to_do(stopped):
    chunk = next((stopped / "2/activation/c").rglob("*/*"))
    chunk.write_bytes(chunk.read_bytes()[:-9] + bytes(9))
    with pytest.raises(StoreError, match=r"2/activation/c/0/0 is damaged or missing .* --repair"):
        pk.capture(mlp(), Stopping(), stopped, sites=["1", "2"], reduce={"1": [0, 1]}, resume=True)


def test_without_resume_a_store_is_never_touched(stopped):
    before = files(stopped)
    with pytest.raises(StoreError, match=r"resume=True .* to go on with a capture that was stopped, or overwrite=True"):
        pk.capture(mlp(), Stopping(), stopped)
    assert files(stopped) == before


def test_train_mode_draws_the_same_after_a_resume_and_leaves_the_model_and_the_generators(tmp_path):
    def net():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(6, 300), nn.BatchNorm1d(300), nn.Dropout(0.5))

    options = {"mode": "train", "memory": 2 * 20 * 900 * 4 * 2}
    torch.manual_seed(5)
    model, state = net(), torch.get_rng_state()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    tree = pk.capture(model, Stopping(), tmp_path / "whole", **options)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert tree.attrs["mode"] == "train"
    with torch.no_grad():  # normalised by the batch's own statistics, not by the running ones
        expected = torch.cat([net()[:2].train()(part) for part in X.split(10)])
    np.testing.assert_allclose(tree["1"]["activation"].values, expected, atol=1e-6)
    assert 0.45 < (tree["2"]["activation"] == 0).mean() < 0.55
    with pytest.raises(KeyboardInterrupt):
        pk.capture(net(), Stopping(50), tmp_path / "parts", **options)
    pk.capture(net(), Stopping(), tmp_path / "parts", resume=True, **options)
    assert files(tmp_path / "parts") == files(tmp_path / "whole")
    with pytest.raises(ModelError, match="mode is 'training'; it is 'eval' or 'train'"):
        pk.capture(net(), X, tmp_path / "c", mode="training")


WRITING = """
import os, sys, time, torch, probekit as pk
from torch import nn
torch.manual_seed(0)
model = nn.Sequential(nn.Embedding(40, 30), nn.Linear(30, 20), nn.ReLU())
model.forward = lambda input_ids, attention_mask: nn.Sequential.forward(model, input_ids)
generator = torch.Generator().manual_seed(1)
ids = torch.randint(0, 40, (600, 6), generator=generator)
mask = torch.arange(6) < torch.randint(1, 7, (600, 1), generator=generator)
def batches():
    for start in range(0, 600, 5):
        rows = slice(start, start + 5)
        time.sleep(0.002)
        yield {"input_ids": ids[rows], "attention_mask": mask[rows], "label": torch.arange(start, start + 5) % 3}
pk.capture(nn.ReLU(), torch.ones(2, 3), sys.argv[1] + ".first", sites="(root)", overwrite=True)  # imports all it needs
print("go", flush=True)
pk.capture(
    model, batches(), sys.argv[1], resume=True, reduce={"2": "tokens"}, sites=["1", "2"], memory=16_000,
    durable=sys.argv[2] == "durable",
)
os._exit(0)  # the interpreter's own end takes long, and a kill during it tells nothing
"""


def write(out, kind, seconds=None):
    """Seconds that a capture into `out` took, or None if it was killed after so many `seconds`."""
    command = [sys.executable, "-c", WRITING, str(out), kind]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        start = time.perf_counter()
        try:
            assert process.wait(seconds) == 0
        except subprocess.TimeoutExpired:
            process.kill()
            return None
        return time.perf_counter() - start


def kill_and_resume(folder, kind, kills, seed):
    """Kill captures at random moments, each of which goes on where the one before was killed."""
    whole, out = folder / "whole", folder / "parts"
    longest = 1.05 * write(whole, kind)
    expected = pk.open(whole)
    values = {site: expected[site]["activation"].values for site in ("1", "2")}
    moments, rows = random.Random(seed), []
    while len(rows) < kills:
        anew = not out.exists()
        if (took := write(out, kind, moments.uniform(0, longest))) is not None:
            assert files(out) == files(whole)
            shutil.rmtree(out)
            longest = 1.05 * took if anew else longest  # the first one may have been slow
        elif out.exists():
            with warnings.catch_warnings(action="ignore"):
                tree = pk.open(out)
            for site, whole_values in values.items():
                found = tree[site]["activation"].values
                np.testing.assert_array_equal(found, whole_values[: len(found)])
            rows.append(tree.sizes["sample"])
            if tree.attrs["complete"]:
                shutil.rmtree(out)
    write(out, kind)
    assert files(out) == files(whole)
    return rows


def test_a_killed_capture_is_a_prefix_and_goes_on_to_the_same_bits(tmp_path):
    kill_and_resume(tmp_path, "durable", kills=3, seed=0)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["plain", "durable"])
def test_fifty_kills(tmp_path, kind):
    rows = kill_and_resume(tmp_path, kind, kills=50, seed=1)
    assert len(set(rows)) > 5, rows
