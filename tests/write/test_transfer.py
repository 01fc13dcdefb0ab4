"""Copies that are under way: nobody reads a buffer before they are done, and none is used again before it was read.

There is no GPU in the tests. `Late` is the worst one: a copy happens only when someone waits for it.
"""

import threading

import numpy as np
import pytest
import torch
from torch import nn

import probekit as pk
from probekit._store.local import LocalBackend
from probekit._write.transfer import PinnedTransfer, Transfer, transfer_for
from tests.models import TokenLayers, mlp, samples
from tests.stores import capture_into


class Late(Transfer):
    """Copies that are only queued, as on a GPU's stream, and done when a fence is waited for."""

    immediate = False

    def __init__(self):
        self.queue, self.most, self.count = [], 0, 0  # `count` of the copies are done
        self.lock = threading.Lock()  # the model's thread and the writer's both wait

    def copy(self, target, source):
        # What a stream would find there at its time: a GPU's tensor isn't overwritten before, since that is queued too.
        with self.lock:
            self.queue.append((target, source.clone()))
            self.most = max(self.most, len(self.queue))

    def fence(self):
        with self.lock:
            last = self.count + len(self.queue)

        def wait():
            with self.lock:
                while self.count < last:
                    target, source = self.queue.pop(0)
                    torch.from_numpy(target).copy_(source)
                    self.count += 1

        return wait


X, Y = samples()


@pytest.mark.parametrize("memory", [2 * 10 * 66 * 4, "256MiB"])
@pytest.mark.parametrize("dtype", [None, "float16"])
def test_a_store_is_the_same_when_copies_are_late(tmp_path, memory, dtype):
    options = {"batch_size": 10, "memory": memory, "dtype": dtype}
    late = Late()
    capture_into(LocalBackend(tmp_path / "late"), mlp(30), (X, Y), transfer=late, **options)
    ours = pk.open(tmp_path / "late")
    assert late.most > 1
    assert not late.queue
    plain = pk.capture(mlp(30), (X, Y), tmp_path / "plain", **options)
    for site in ("0", "1", "2"):
        np.testing.assert_array_equal(ours[site]["activation"].values, plain[site]["activation"].values)


def test_tokens_whose_copies_are_late_are_committed_whole(tmp_path):
    data = {"input_ids": torch.randn(40, 5, 6), "attention_mask": torch.ones(40, 5, dtype=torch.long), "label": Y[:40]}
    torch.manual_seed(0)
    model = TokenLayers(nn.Linear(6, 4))
    options = {"reduce": "tokens", "sites": "0", "batch_size": 4, "memory": 3000}
    capture_into(LocalBackend(tmp_path / "a"), model, data, transfer=Late(), **options)
    tree = pk.open(tmp_path / "a")
    with torch.no_grad():
        expected = model[0](data["input_ids"]).reshape(-1, 4)
    np.testing.assert_allclose(tree["0"]["activation"].values, expected, rtol=1e-5, atol=1e-6)


def test_what_is_in_flight_is_bounded_by_the_buffers(tmp_path):
    late, memory = Late(), 2 * 10 * 66 * 4
    capture_into(LocalBackend(tmp_path / "a"), mlp(30), (X, Y), batch_size=10, memory=memory, transfer=late)
    assert late.most <= 2 * 4  # of the batches in two chunk rows, at four sites


def test_only_models_on_a_gpu_use_page_locked_memory():
    assert type(transfer_for(mlp(30))) is Transfer


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_model_on_a_gpu_gives_the_store_that_it_gives_by_hand(tmp_path):
    model = mlp(30).cuda()
    assert isinstance(transfer_for(model), PinnedTransfer)
    tree = pk.capture(model, (X, Y), tmp_path / "a", batch_size=10, memory=2 * 10 * 66 * 4)
    with torch.no_grad():
        expected = torch.cat([model(part.cuda()) for part in X.split(10)]).cpu()
    np.testing.assert_array_equal(tree["2"]["activation"].values, expected)
