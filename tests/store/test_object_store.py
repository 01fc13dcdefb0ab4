"""Stores that lie in an object store: in memory, and in one that speaks S3, on loopback, where its packages are."""

import contextlib
import os
import random
import signal
import socket
import subprocess
import sys
import time
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

import probekit as pk
from probekit.errors import StoreError
from tests import processes
from tests.models import batches, mlp, samples
from tests.stores import opened, timeless

fsspec = pytest.importorskip("fsspec")

X, Y = samples()
SMALL = 2 * 25 * 20 * 4  # five batches in a chunk row


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """A server of S3, at the address that the environment says, as users say it."""
    pytest.importorskip("s3fs")
    moto = pytest.importorskip("moto.server")
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    server = moto.ThreadedMotoServer("127.0.0.1", port, verbose=False)
    server.start()
    variables = {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_ACCESS_KEY_ID": "a",
        "AWS_SECRET_ACCESS_KEY": "b",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_MAX_ATTEMPTS": "1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": str(tmp_path_factory.getbasetemp() / "config"),
        "AWS_SHARED_CREDENTIALS_FILE": str(tmp_path_factory.getbasetemp() / "credentials"),
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in variables.items():
            patch.setenv(name, value)
        fsspec.filesystem("s3").mkdir("bucket")
        yield server
    server.stop()


@pytest.fixture
def s3(server, tmp_path):
    return f"s3://bucket/{tmp_path.name}"


@pytest.fixture(params=["memory", pytest.param("s3", marks=pytest.mark.slow)])
def folder(request, tmp_path):
    return f"memory://{tmp_path.name}" if request.param == "memory" else request.getfixturevalue("s3")


def model():
    return mlp(20)[:2]


def capture(url, data=None, **options):
    return pk.capture(model(), batches(X, Y, 5) if data is None else data, url, sites="1", memory=SMALL, **options)


def objects(url):
    """Every object of a store, but for the time of its making."""
    files, root = fsspec.core.url_to_fs(url)
    found = {name.removeprefix(root): files.cat_file(name) for name in files.find(root)}
    return found | {"/zarr.json": timeless(found["/zarr.json"])}


def expected():
    with torch.no_grad():
        return torch.cat([model()(part) for part in X.split(5)])


def test_a_capture_is_opened_measured_and_described(folder, tmp_path):
    url = f"{folder}/acts.zarr"
    capture(url)
    site = pk.open(url)["1"]
    np.testing.assert_array_equal(site["activation"].values, expected())
    np.testing.assert_array_equal(site["activation"][17:40, 3].values, expected()[17:40, 3])
    np.testing.assert_array_equal(site["label"].values, Y)
    capture(tmp_path / "here.zarr")
    here = pk.measure(tmp_path / "here.zarr", ["median", "std"])
    np.testing.assert_array_equal(pk.measure(url, ["median", "std"])["1"]["median"], here["1"]["median"])
    found, local = pk.info(url), pk.info(tmp_path / "here.zarr")
    assert (found.rows, found.complete, found.classes) == (95, True, local.classes)
    assert [site.bytes for site in found.sites] == [site.bytes for site in local.sites]
    assert len(objects(url)) == len([file for file in (tmp_path / "here.zarr").rglob("*") if file.is_file()])


def test_rows_are_read_from_there(folder):
    site = capture(f"{folder}/acts.zarr")["1"]
    np.testing.assert_array_equal(torch.cat([x for x, _ in pk.as_dataset(site).loader(16)]), expected())


def test_what_was_stopped_is_a_prefix_and_resumes_to_the_same_bits(folder):
    capture(f"{folder}/whole.zarr")
    url = f"{folder}/a.zarr"
    with pytest.raises(KeyboardInterrupt):
        capture(url, batches(X, Y, 5, stop=50))
    with pytest.warns(UserWarning, match="the first 50 of"):
        np.testing.assert_array_equal(pk.open(url)["1"]["activation"].values, expected()[:50])
    capture(url, resume=True)
    assert objects(url) == objects(f"{folder}/whole.zarr")


def test_a_store_that_is_there_is_refused_or_replaced(folder):
    url = f"{folder}/acts.zarr"
    capture(url)
    capture(f"{folder}/other.zarr")
    before = objects(url)
    with pytest.raises(StoreError, match=r"acts.zarr exists already and was left as it is"):
        capture(url)
    assert objects(url) == before
    pk.capture(nn.ReLU(), X, url, overwrite=True)
    assert pk.open(url)["(root)"]["activation"].shape == (95, 6)
    assert not [name for name in objects(url) if name.startswith("/1/")]
    assert objects(f"{folder}/other.zarr") == before


def test_what_is_not_there_is_said(folder):
    capture(f"{folder}/acts.zarr")
    with pytest.raises(StoreError, match=r"There is no store at .*/act.zarr\. Near: 'acts.zarr'"):
        pk.open(f"{folder}/act.zarr")
    with pytest.raises(StoreError, match="durable=True is for folders"):
        capture(f"{folder}/acts.zarr", durable=True)


def test_a_missing_package_and_an_unknown_protocol_are_named():
    with pytest.raises(StoreError, match=r"zz://bucket/a.zarr can't be reached: .*zz"):
        pk.open("zz://bucket/a.zarr")


def test_a_store_can_fill_a_bucket_and_replacing_it_leaves_the_bucket(s3):
    files, _ = fsspec.core.url_to_fs(s3)
    files.mkdir("whole")
    capture("s3://whole")
    capture("s3://whole", overwrite=True)
    np.testing.assert_array_equal(pk.open("s3://whole")["1"]["activation"].values, expected())


def test_a_missing_bucket(s3):
    for action in (lambda: capture("s3://nowhere-at-all/a.zarr"), lambda: pk.open("s3://nowhere-at-all/a.zarr")):
        with pytest.raises(
            StoreError,
            match=r"s3://nowhere-at-all/a.zarr.*(bucket does not exist|There is no store)|There is no store at s3://nowhere",
        ):
            action()


@pytest.mark.parametrize("action", [pk.open, capture])
def test_no_credentials(s3, action):
    environment = {name: value for name, value in os.environ.items() if "_KEY" not in name}
    with pytest.raises(StoreError, match=r"s3://bucket/.*/a.zarr can't be reached: .*credentials"):
        processes.call(action, f"{s3}/a.zarr", environment=environment)


def committed(url):
    """The number of samples in a store that is being written."""
    with contextlib.suppress(StoreError):  # this server answers 500 to who reads an object amid its overwriting
        return opened(url).sizes["sample"] if stands(url) else 0
    return 0


def test_a_server_that_dies_is_named_and_what_was_committed_is_there_after(s3, server):
    url = f"{s3}/a.zarr"

    def dying():
        for number, batch in enumerate(batches(X, Y, 5)):
            if number == 16:
                while not committed(url):
                    time.sleep(0.01)
                server.stop()
            yield batch

    try:
        with pytest.raises(StoreError, match=r"a\.zarr.*can't be reached: .*Its first \d+ samples are committed"):
            capture(url, dying())
        with pytest.raises(StoreError, match="can't be reached"):
            pk.open(url)
    finally:
        server.start()
    found = opened(url)["1"]["activation"].values
    assert len(found) > 0
    np.testing.assert_array_equal(found, expected()[: len(found)])
    capture(url, resume=True)
    np.testing.assert_array_equal(pk.open(url)["1"]["activation"].values, expected())


def slowly(url):
    """A capture of batches each of which takes a while."""

    def waiting():
        for batch in batches(X, Y, 5):
            time.sleep(0.01)
            yield batch

    capture(url, waiting(), resume=True)


def stands(url):
    """Whether there is a store, as a process that has just been killed left it."""
    return fsspec.core.url_to_fs(url, use_listings_cache=False)[0].exists(f"{url}/zarr.json")


@pytest.mark.slow
@pytest.mark.parametrize("kills", [2, pytest.param(20, marks=pytest.mark.long)])
def test_captures_killed_at_any_moment_are_prefixes_and_resume_to_the_same_bits(s3, kills):
    longest = processes.run(slowly, f"{s3}/whole.zarr").seconds
    whole, url = objects(f"{s3}/whole.zarr"), f"{s3}/a.zarr"
    moments, rows = random.Random(0), []
    while len(rows) < kills:
        anew = not stands(url)
        ended = processes.run(slowly, url, seconds=moments.uniform(0, longest))
        if ended.status == 0:
            assert objects(url) == whole
            longest = ended.seconds if anew else longest  # the first one may have been slow
            fsspec.core.url_to_fs(url)[0].rm(url, recursive=True)
        elif stands(url):
            assert ended.status == -signal.SIGKILL
            found = opened(url)["1"]["activation"].values
            np.testing.assert_array_equal(found, expected()[: len(found)])
            assert pk.verify(url)
            rows.append(len(found))
    capture(url, resume=True)
    assert objects(url) == whole


def test_what_is_damaged_is_found_dropped_and_made_again(folder):
    url = f"{folder}/acts.zarr"
    capture(url)
    whole, rows = objects(url), pk.open(url).attrs["chunk_rows"]
    found = pk.verify(url)
    assert (bool(found), found.rows, found.sites) == (True, 95, 1)
    files, root = fsspec.core.url_to_fs(url)
    files.rm(f"{root}/1/activation/c/2/0")
    chunk = files.cat_file(f"{root}/label/c/1")
    files.pipe_file(f"{root}/label/c/1", bytes(len(chunk)))
    damages = {damage.array: (damage.start, damage.what) for damage in pk.verify(url).damages}
    assert damages == {"1/activation": (2 * rows, "missing"), "label": (rows, "wrong checksum")}
    assert pk.verify(url, repair=True).kept == rows
    assert pk.verify(url)
    capture(url, resume=True)
    assert objects(url) == whole


RANKS = """
import sys, torch, torch.distributed as dist, probekit as pk
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
dist.init_process_group("gloo")
x = torch.randn(95, 6, generator=torch.Generator().manual_seed(0))
data = TensorDataset(x, torch.arange(95) % 4)
torch.manual_seed(0)
model = nn.Sequential(nn.Linear(6, 20), nn.ReLU())
loader = DataLoader(data, batch_size=5, sampler=pk.ChunkSampler(data, chunk_rows=10))
pk.capture(model, loader, sys.argv[1], resume=True)
dist.destroy_process_group()
"""


@pytest.mark.long
def test_several_processes_write_one_store_there(s3, tmp_path):
    (tmp_path / "study.py").write_text(RANKS)
    for count in (1, 3):
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={count}"]
        done = subprocess.run(
            [*command, str(tmp_path / "study.py"), f"{s3}/{count}.zarr"],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
    np.testing.assert_array_equal(pk.open(f"{s3}/3.zarr")["1"]["activation"].values, expected())
    assert objects(f"{s3}/3.zarr") == objects(f"{s3}/1.zarr")


def take_environment(environment, worker):
    os.environ.update(environment)


@pytest.mark.slow
@pytest.mark.parametrize("start", ["fork", "forkserver", pytest.param("spawn", marks=pytest.mark.long)])
def test_workers_read_from_there(s3, start):
    rows = pk.as_dataset(capture(f"{s3}/acts.zarr")["1"])
    rows[0]
    options = {"multiprocessing_context": start, "worker_init_fn": partial(take_environment, dict(os.environ))}
    loader = rows.loader(16, num_workers=1, timeout=60, **options)
    np.testing.assert_array_equal(torch.cat([x for x, _ in loader]), expected())
