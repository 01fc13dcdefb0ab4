"""Whatever goes wrong during a capture: it says what, leaves nothing behind, and what was committed stays as it was."""

import itertools
import os
import random
import resource
import shutil
import signal
import subprocess
import threading
import time

import numpy as np
import pytest
import torch
from torch import nn

import probekit as pk
from probekit._store.local import LocalBackend
from probekit.errors import ModelError, StoreError
from tests import processes
from tests.stores import capture_into, contents, opened

ROWS, BATCH = 240, 4
MEMORY = 2 * 2 * BATCH * 303 * 4  # two batches in a chunk row
SITES = {"sites": ["0", "2"], "memory": MEMORY}
X = torch.randn(ROWS, 6, generator=torch.Generator().manual_seed(0))
Y = torch.arange(ROWS) % 3


class Faulty(nn.Sequential):
    """Raises at one of its batches, whose number counts from the first after the dry runs."""

    at, error = None, RuntimeError("out of order")

    def forward(self, x):
        if self.at is not None and len(x) == BATCH and torch.equal(x, X[self.at * BATCH : (self.at + 1) * BATCH]):
            raise self.error
        return super().forward(x)


def net():
    torch.manual_seed(0)
    return Faulty(nn.Linear(6, 300), nn.Dropout(), nn.Linear(300, 3)).train()


class Batches:
    """The data in batches; `between` is called before each with the number of its first sample."""

    def __init__(self, between=lambda start: None):
        self.between = between

    def __iter__(self):
        for start in range(0, ROWS, BATCH):
            self.between(start)
            yield X[start : start + BATCH], Y[start : start + BATCH]


def capture(out, model=None, data=None, **options):
    return pk.capture(model or net(), data or Batches(), out, **SITES, **options)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    path = tmp_path_factory.mktemp("whole") / "a.zarr"
    capture(path)
    return path


def check_after(out, whole, model):
    """All is as before, what was committed is a sound prefix, and it resumes to the same bits; its rows."""
    until = time.monotonic() + 1
    while any(thread.name.startswith("probekit-w") for thread in threading.enumerate()):
        assert time.monotonic() < until, "a writer's thread lives on"
        time.sleep(0.01)  # one that was interrupted as it started ends by itself
    assert all(module.training for module in model.modules())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    assert torch.is_grad_enabled()
    if not out.exists():
        return 0
    tree, expected = opened(out), opened(whole)
    rows = tree.sizes["sample"]
    assert pk.verify(out)
    for site in ("0", "2"):
        found = tree[site]["activation"]
        np.testing.assert_array_equal(found.values, expected[site]["activation"].values[:rows])
        np.testing.assert_array_equal(found["label"].values, Y[:rows])
    again = net()
    capture(out, again, resume=True)  # which a lock that was left would refuse
    assert contents(out) == contents(whole)
    return rows


def at_rest(out, rows):
    while opened(out).sizes["sample"] < rows:
        time.sleep(0.002)


def in_data(start):
    if start == 100:
        raise OSError("the camera is off")


@pytest.mark.parametrize("durable", [False, True])
def test_an_exception_in_the_data(tmp_path, whole, durable):
    model = net()
    with pytest.raises(OSError, match="the camera is off"):
        capture(tmp_path / "a", model, Batches(in_data), durable=durable)
    assert check_after(tmp_path / "a", whole, model) == 100


@pytest.mark.parametrize("batch", [0, 1, 2, 37, 59])
def test_an_exception_in_the_model(tmp_path, whole, batch):
    model = net()
    model.at = batch
    with pytest.raises(ModelError, match="out of order"):
        capture(tmp_path / "a", model)
    model.at = None
    assert check_after(tmp_path / "a", whole, model) == batch * BATCH


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), MemoryError("no memory"), KeyError("bug")])
@pytest.mark.parametrize("number", [0, 1, 9, 44])
def test_an_exception_in_the_writers_thread(tmp_path, whole, error, number):
    class Failing(LocalBackend):
        calls = itertools.count()

        def write(self, key, contents):
            if threading.current_thread().name.startswith("probekit-w") and next(self.calls) == number:
                raise error
            super().write(key, contents)

    model = net()
    with pytest.raises(StoreError, match=r"Writing .* failed: .*(No space|no memory|bug).* can be read; resume=True"):
        capture_into(Failing(tmp_path / "a"), model, Batches(), **SITES)
    assert check_after(tmp_path / "a", whole, model) % 8 == 0


def truncate(out):
    file = max((out / "0/activation/c").rglob("*/*"))
    file.write_bytes(file.read_bytes()[:-5])


UNDER_IT = {
    "a site's folder removed": lambda out: shutil.rmtree(out / "0"),
    "a file in the way": lambda out: (shutil.rmtree(out / "2/activation/c"), (out / "2/activation/c").write_text("")),
    "the store removed": lambda out: shutil.rmtree(out),
}


@pytest.mark.parametrize("change", UNDER_IT)
def test_what_is_taken_away_under_the_writer_stops_it(tmp_path, whole, change):
    out, model = tmp_path / "a", net()

    def between(start):
        if start == 100:
            at_rest(out, 96)
            UNDER_IT[change](out)

    with pytest.raises(StoreError, match=r"Writing .* failed: .*(No such file|Not a directory)"):
        capture(out, model, Batches(between))
    if out.exists():
        assert opened(out).attrs["rows"] == 96
        if (out / "2/activation/c").is_file():
            with pytest.raises(StoreError, match=r"can't be repaired: File exists: .*/2/activation/c\. Move what"):
                pk.verify(out, repair=True)
            (out / "2/activation/c").unlink()
        assert pk.verify(out, repair=True).kept == 0
    check_after(out, whole, model)


def test_a_chunk_truncated_under_the_writer_is_found_and_made_again(tmp_path, whole):
    out, model = tmp_path / "a", net()

    def between(start):
        if start == 100:
            at_rest(out, 96)
            truncate(out)

    capture(out, model, Batches(between))
    [damage] = pk.verify(out).damages
    assert (damage.name, damage.what.partition(":")[0]) == ("0", "wrong length")
    assert pk.verify(out, repair=True).kept == damage.start
    check_after(out, whole, model)


# A file that is being opened just then is closed by the garbage collector.
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_interrupts_at_any_moment(tmp_path, whole):
    def interrupt(number, frame):
        raise KeyboardInterrupt

    capture(tmp_path / "first")  # whatever a first capture alone does isn't timed
    shutil.rmtree(tmp_path / "first")
    start = time.perf_counter()
    capture(tmp_path / "first")
    longest = time.perf_counter() - start
    moments, rows = random.Random(0), []
    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        while len(rows) < 20 or (len(set(rows)) <= 5 and len(rows) < 200):
            out, model, start = tmp_path / str(len(rows)), net(), time.perf_counter()
            try:
                signal.setitimer(signal.ITIMER_REAL, moments.uniform(0.001, longest))
                capture(out, model)
                longest = min(longest, time.perf_counter() - start)  # the first one may have been slow
            except KeyboardInterrupt:
                pass
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)
            rows.append(check_after(out, whole, model))
            shutil.rmtree(out, ignore_errors=True)
    finally:
        signal.signal(signal.SIGALRM, before)
    assert len(set(rows)) > 5, rows
    assert sorted(os.listdir(tmp_path)) == ["first"]


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 400 KB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", disk], capture_output=True, check=False)
    if done.returncode:
        pytest.skip("no disk can be mounted here")
    yield disk
    subprocess.run(["umount", disk], check=True)


def test_a_full_disk(small_disk, whole):
    model = net()
    with pytest.raises(StoreError, match=r"No space left on device\. Its first \d+ samples are committed"):
        capture(small_disk / "a", model)
    rows = opened(small_disk / "a").sizes["sample"]
    assert rows > 0
    shutil.copytree(small_disk / "a", whole.parent / "roomier")
    assert check_after(whole.parent / "roomier", whole, model) == rows


def test_a_read_only_disk(small_disk, whole):
    (small_disk / "a").mkdir()
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    with pytest.raises(StoreError, match="can't be created: Read-only file system"):
        capture(small_disk / "b")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_may_not_be_written(tmp_path, whole):
    shutil.copytree(whole, tmp_path / "a")
    os.chmod(tmp_path / "a", 0o555)
    assert pk.verify(tmp_path / "a")
    for write in (lambda: capture(tmp_path / "a", resume=True), lambda: capture(tmp_path / "a", overwrite=True)):
        with pytest.raises(StoreError, match="can't be written: Permission denied"):
            write()


class Killed(LocalBackend):
    """Kills its process before there is a chunk."""

    def make_room(self, keys):
        os.kill(os.getpid(), signal.SIGKILL)


def killed_as_it_begins(out):
    capture_into(Killed(out), net(), Batches(), **SITES)


@pytest.mark.slow
def test_a_capture_that_was_killed_while_it_began_resumes(tmp_path, whole):
    assert processes.run(killed_as_it_begins, tmp_path / "a").status == -signal.SIGKILL
    assert check_after(tmp_path / "a", whole, net()) == 0


def in_small_files(out):
    """A capture where no file may be larger than 5 KB."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))
    capture(out)


def test_a_file_that_the_system_refuses(tmp_path, whole):
    with pytest.raises(StoreError, match=r"Writing .* failed: File too large\. Its first 0 samples are committed"):
        processes.call(in_small_files, tmp_path / "a")
    assert check_after(tmp_path / "a", whole, net()) == 0


# Two writers


REFUSED = "(?s).* is being written by another process. Wait until it is done or stop it; .*resume=True"


@pytest.mark.parametrize("options", [{"resume": True}, {"overwrite": True}])
@pytest.mark.parametrize("elsewhere", [False, True])
def test_a_second_writer_is_refused_while_the_first_lives(tmp_path, whole, options, elsewhere):
    out, refused = tmp_path / "a", []

    def between(start):
        if start == 100:
            with pytest.raises(StoreError, match=REFUSED) as error:
                processes.call(second, out, options) if elsewhere else second(out, options)
            refused.append(error)

    capture(out, data=Batches(between))
    assert refused
    assert contents(out) == contents(whole)


def second(out, options):
    capture(out, **options)


def killed_at_rest(out):
    def between(start):
        if start == 100:
            at_rest(out, 96)
            os.kill(os.getpid(), signal.SIGKILL)

    capture(out, data=Batches(between))


def test_after_the_first_was_killed_the_second_resumes(tmp_path, whole):
    out = tmp_path / "a"
    assert processes.run(killed_at_rest, out).status == -signal.SIGKILL
    assert (out / ".lock").exists()  # which nobody has locked
    assert check_after(out, whole, net()) == 96
