"""A stopped capture, at any moment and by anything, resumes to the same bits; with anything else it does not."""

import os
import random
import shutil
import signal
import time

import numpy as np
import pytest
import torch
from torch import nn

import probekit as pk
from probekit.errors import DataError, ModelError, StoreError
from tests import processes
from tests.models import TokenLayers, batches, mlp, samples
from tests.stores import contents, files, opened

X, Y = samples()
SMALL = 2 * 20 * 303 * 4 * 2  # two batches in a chunk row


@pytest.mark.parametrize("at", [10, 20, 50, 90])
@pytest.mark.parametrize("dtype", [None, "bfloat16"])
def test_what_was_stopped_resumes_to_the_same_bits_without_running_a_batch_twice(tmp_path, at, dtype):
    options = {"sites": ["1", "2"], "memory": SMALL, "dtype": dtype}
    pk.capture(mlp(), batches(X, Y), tmp_path / "whole", **options)
    with pytest.raises(KeyboardInterrupt):
        pk.capture(mlp(), batches(X, Y, stop=at), tmp_path / "a", **options)
    with pytest.warns(UserWarning, match=f"the first {at} of"):
        assert pk.open(tmp_path / "a").sizes["sample"] == at
    model, rows = mlp(), []
    model.register_forward_pre_hook(lambda module, inputs: rows.append(len(inputs[0])))
    pk.capture(model, batches(X, Y), tmp_path / "a", resume=True, **options)
    assert contents(tmp_path / "a") == contents(tmp_path / "whole")
    assert sum(rows) == (95 - at) + 2 + 3  # and two dry runs


def straddling(out, stop=None):
    """A capture of batches that end within chunk rows, killed before the batch that begins with sample `stop`."""

    def stopping():
        start = 0
        for size in [20, 7, 20, 3, 20, 20, 5]:
            if start == stop:
                os.kill(os.getpid(), signal.SIGKILL)
            yield torch.arange(start, start + size)[:, None].expand(size, 300) / 7, torch.arange(size) % 4
            start += size

    pk.capture(nn.ReLU(), stopping(), out, memory=2 * 20 * 300 * 4, resume=True)


def test_batches_that_straddle_the_last_commit_resume_where_it_ended(tmp_path):
    straddling(tmp_path / "whole")
    assert processes.run(straddling, tmp_path / "a", 70).status == -signal.SIGKILL
    assert opened(tmp_path / "a").sizes["sample"] in (20, 40, 60)  # whole chunk rows; the batches end at 47, 50
    straddling(tmp_path / "a")
    assert contents(tmp_path / "a") == contents(tmp_path / "whole")


def test_resume_begins_where_there_is_nothing_and_leaves_what_is_complete(tmp_path):
    pk.capture(mlp(), (X, Y), tmp_path / "a", resume=True)
    before = {file: file.stat().st_mtime_ns for file in (tmp_path / "a").rglob("*")}
    pk.capture(mlp(), (X, Y), tmp_path / "a", resume=True)
    assert before == {file: file.stat().st_mtime_ns for file in (tmp_path / "a").rglob("*")}


@pytest.fixture
def stopped(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        pk.capture(mlp(), batches(X, Y, stop=50), tmp_path / "a", sites=["1", "2"], reduce={"1": [0, 1]})
    return tmp_path / "a"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": mlp(seed=1)}, "the model's weights"),
        ({"data": batches(X + 1, Y)}, "the inputs of the first batch"),
        ({"data": batches(X, Y, 5)}, "batch_size was 10 and is 5"),
        ({"sites": ["1"]}, "the site '2' is only in the store"),
        ({"sites": ["0", "1", "2"]}, "the site '0' is not in the store"),
        ({"reduce": {"1": [0, 2]}}, r"reduce of '1' was .*\[0, 1\]"),
        ({"dtype": "float16"}, "data_type of '1' was float32 and is float16"),
        ({"compression": "fast"}, "codecs of '1'"),
        ({"mode": "train"}, "mode was 'eval' and is 'train'"),
        ({"columns": {"split": "test"}}, "the column 'split' is not in the store"),
        ({"labels": False, "data": [X[:10]]}, "the column 'label' is only in the store"),
    ],
)
def test_going_on_with_something_else_is_refused_and_named(stopped, change, message):
    before = files(stopped)
    model, data = change.pop("model", None) or mlp(), change.pop("data", None) or batches(X, Y)
    options = {"sites": ["1", "2"], "reduce": {"1": [0, 1]}} | change
    with pytest.raises(StoreError, match=f"was captured with different settings: .*{message}"):
        pk.capture(model, data, stopped, resume=True, **options)
    assert files(stopped) == before


def test_other_labels_or_another_order_are_refused_at_the_first_sample_that_differs(stopped):
    y = Y.clone()
    y[[33, 34]] = y[[34, 33]]
    options = {"sites": ["1", "2"], "reduce": {"1": [0, 1]}, "resume": True}
    with pytest.raises(DataError, match="label of sample 33 is 2 and was 1"):
        pk.capture(mlp(), batches(X, y), stopped, **options)
    with pytest.raises(DataError, match=r"The data hold 30 samples, and .* already has 50 of them"):
        pk.capture(mlp(), batches(X[:30], Y[:30]), stopped, **options)
    pk.capture(mlp(), batches(X, Y), stopped, **options)
    np.testing.assert_array_equal(pk.open(stopped)["label"].values, Y)


def test_a_damaged_last_chunk_is_named_with_what_to_do(stopped):
    chunk = next((stopped / "2/activation/c").rglob("*/*"))
    chunk.write_bytes(chunk.read_bytes()[:-9] + bytes(9))
    with pytest.raises(StoreError, match=r"2/activation/c/0/0 is damaged or missing .* --repair"):
        pk.capture(mlp(), batches(X, Y), stopped, sites=["1", "2"], reduce={"1": [0, 1]}, resume=True)


def test_without_resume_a_store_is_never_touched(stopped):
    before = files(stopped)
    with pytest.raises(StoreError, match=r"resume=True to resume a capture that was stopped, or overwrite=True"):
        pk.capture(mlp(), batches(X, Y), stopped)
    assert files(stopped) == before


def test_train_mode_draws_the_same_after_a_resume_and_leaves_the_model_and_the_generators(tmp_path):
    def net():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(6, 300), nn.BatchNorm1d(300), nn.Dropout(0.5))

    options = {"mode": "train", "memory": 2 * 20 * 900 * 4 * 2}
    torch.manual_seed(5)
    model, state = net(), torch.get_rng_state()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    tree = pk.capture(model, batches(X, Y), tmp_path / "whole", **options)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert tree.attrs["mode"] == "train"
    with torch.no_grad():  # normalised by the batch's own statistics, not by the running ones
        expected = torch.cat([net()[:2].train()(part) for part in X.split(10)])
    np.testing.assert_allclose(tree["1"]["activation"].values, expected, atol=1e-6)
    assert 0.45 < (tree["2"]["activation"] == 0).mean() < 0.55
    with pytest.raises(KeyboardInterrupt):
        pk.capture(net(), batches(X, Y, stop=50), tmp_path / "a", **options)
    pk.capture(net(), batches(X, Y), tmp_path / "a", resume=True, **options)
    assert contents(tmp_path / "a") == contents(tmp_path / "whole")
    with pytest.raises(ModelError, match="mode is 'training'; it is 'eval', 'train' or 'as is'"):
        pk.capture(net(), X, tmp_path / "c", mode="training")


def write(out, durable):
    """A capture of sixty batches, each of which takes a while."""
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(0, 40, (300, 6), generator=generator)
    mask = torch.arange(6) < torch.randint(1, 7, (300, 1), generator=generator)

    def slowly():
        for start in range(0, 300, 5):
            rows = slice(start, start + 5)
            time.sleep(0.002)
            yield {"input_ids": ids[rows], "attention_mask": mask[rows], "label": torch.arange(start, start + 5) % 3}

    torch.manual_seed(0)
    model = TokenLayers(nn.Embedding(40, 30), nn.Linear(30, 20), nn.ReLU())
    options = {"reduce": {"2": "tokens"}, "sites": ["1", "2"], "memory": 16_000}
    pk.capture(model, slowly(), out, resume=True, durable=durable, **options)


def kill_and_resume(folder, durable, kills, seed):
    """Kill captures at random moments, each of which resumes where the one before was killed."""
    whole, out = folder / "whole", folder / "a"
    longest = 1.05 * processes.run(write, whole, durable).seconds
    expected = pk.open(whole)
    values = {site: expected[site]["activation"].values for site in ("1", "2")}
    moments, rows = random.Random(seed), []
    while len(rows) < kills:
        anew = not out.exists()
        ended = processes.run(write, out, durable, seconds=moments.uniform(0, longest))
        if ended.status == 0:
            assert contents(out) == contents(whole)
            shutil.rmtree(out)
            longest = 1.05 * ended.seconds if anew else longest  # the first one may have been slow
        elif out.exists():
            assert ended.status == -signal.SIGKILL
            tree = opened(out)
            for site, whole_values in values.items():
                found = tree[site]["activation"].values
                np.testing.assert_array_equal(found, whole_values[: len(found)])
            rows.append(tree.sizes["sample"])
            if tree.attrs["complete"]:
                shutil.rmtree(out)
    write(out, durable)
    assert contents(out) == contents(whole)
    return rows


@pytest.mark.slow
def test_a_killed_capture_is_a_prefix_and_resumes_to_the_same_bits(tmp_path):
    kill_and_resume(tmp_path, durable=True, kills=3, seed=0)


@pytest.mark.long
@pytest.mark.parametrize("durable", [False, True])
def test_fifty_kills(tmp_path, durable):
    rows = kill_and_resume(tmp_path, durable, kills=50, seed=1)
    assert len(set(rows)) > 5, rows
