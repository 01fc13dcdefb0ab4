from __future__ import annotations

import importlib.metadata
import pickle
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from safetensors.torch import save_file
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader

from probekit import load
from probekit.errors import DataError, ModelError

STUDY = """
from __future__ import annotations
from dataclasses import dataclass
from torch import nn
from beside import WIDTH

@dataclass
class Settings:
    width: int = WIDTH

def make_model() -> nn.Module:
    return nn.Sequential(nn.Linear(4, Settings().width), nn.ReLU(), nn.Linear(Settings().width, 2))

def make_dict() -> dict:
    return {}

def break_down() -> nn.Module:
    raise ValueError("no width given")

ready = nn.Linear(4, 2)
"""


@pytest.fixture
def study(tmp_path: Path) -> Path:
    (tmp_path / "beside.py").write_text("WIDTH = 5")
    (tmp_path / "study.py").write_text(STUDY)
    return tmp_path / "study.py"


def weights_of(model: nn.Module) -> list[Any]:
    return [parameter.detach().numpy() for parameter in model.parameters()]


def same(a: nn.Module, b: nn.Module) -> bool:
    return all(map(np.array_equal, weights_of(a), weights_of(b)))


# Models


def test_a_torchvision_model_has_the_weights_of_its_seed() -> None:
    torch.manual_seed(7)
    expected = torchvision.models.squeezenet1_1(weights=None)
    assert same(load.model("torchvision:squeezenet1_1", seed=7), expected)
    assert not same(load.model("torchvision:squeezenet1_1", seed=8), expected)


def test_a_detection_model_downloads_no_backbone(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a download was started")

    monkeypatch.setattr("torch.hub.load_state_dict_from_url", refuse)
    monkeypatch.setattr("torchvision._internally_replaced_utils.load_state_dict_from_url", refuse)
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", refuse)
    model = load.model("torchvision:ssdlite320_mobilenet_v3_large")
    assert isinstance(model, nn.Module)


def test_loading_leaves_the_global_generator_as_it_was(study: Path) -> None:
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    load.model(f"{study}:make_model", seed=11)
    assert torch.equal(torch.rand(4), expected)


def test_a_file_is_run_with_the_modules_beside_it(study: Path) -> None:
    before = list(sys.path)
    model = load.model(f"{study}:make_model", seed=1)
    assert sys.path == before
    torch.manual_seed(1)
    nn.Linear(4, 2)  # `ready`, which the file makes first
    assert same(model, nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 2)))


def test_a_file_or_module_may_hold_the_model_or_its_class(study: Path) -> None:
    assert isinstance(load.model(f"{study}:ready"), nn.Linear)
    assert isinstance(load.model("torch.nn:Identity"), nn.Identity)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("resnet18", r"'resnet18' doesn't say where.*torchvision:NAME.*file\.py:factory"),
        ("torchvision:resnet_18", r"no model 'resnet_18'.*Near: 'resnet18'"),
        ("torchvision:resnet18@V9", r"no weights 'V9' of resnet18; there are: DEFAULT, IMAGENET1K_V1"),
        ("no_such_package.models:make", r"no module 'no_such_package'.*PYTHONPATH"),
        ("torch.nn:Identty", r"'torch\.nn' has no function or class 'Identty'.*Near: 'Identity'"),
        ("torch.nn:Linear", r"Calling 'torch\.nn:Linear' with no arguments raised TypeError: .*in_features"),
        ("nowhere.py:make", r"no file 'nowhere\.py'"),
    ],
)
def test_a_name_that_stands_for_no_model(name: str, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        load.model(name)


@pytest.mark.parametrize(
    ("factory", "message"),
    [
        ("make_modle", "has no function or class 'make_modle'. Near: 'make_model'"),
        ("zzz", "'make_model'"),
        ("make_dict", "returned a dict, not a torch.nn.Module"),
        ("break_down", "raised ValueError: no width given"),
    ],
)
def test_a_factory_that_gives_no_model(factory: str, message: str, study: Path) -> None:
    with pytest.raises(ModelError, match=re.escape(message)):
        load.model(f"{study}:{factory}")


@pytest.mark.parametrize("code", ["import no_such_module", "raise SystemExit(2)", "1 / 0", "def"])
def test_a_file_that_fails_is_named_with_what_it_raised(code: str, tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text(code)
    with pytest.raises(ModelError, match=r"Running '.*broken\.py' raised \w+: ") as raised:
        load.model(f"{tmp_path / 'broken.py'}:make")
    assert raised.value.__cause__ is not None
    assert "_probekit_file_broken" not in sys.modules


def test_a_module_that_lacks_an_import_is_not_called_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "half_there.py").write_text("import no_such_module")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModelError, match=r"Importing 'half_there' raised ModuleNotFoundError.*no_such_module"):
        load.model("half_there:make")


@pytest.mark.parametrize(
    "cause", ["RuntimeError('operator torchvision::nms does not exist')", "ImportError('libtorch')"]
)
def test_a_torchvision_for_another_torch(cause: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "torchvision").mkdir()
    (tmp_path / "torchvision" / "__init__.py").write_text(f"raise {cause}")
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModelError, match="`pip install") as raised:
        load.model("torchvision:resnet18")
    assert repr(raised.value.__cause__) == cause
    for distribution in ("torch", "torchvision"):
        assert f"{distribution} {importlib.metadata.version(distribution)}" in str(raised.value)


@pytest.mark.parametrize(
    ("name", "package", "extra"), [("timm:vit_tiny_patch16_224", "timm", "timm"), ("hf:gpt2", "transformers", "hf")]
)
def test_an_extra_that_is_not_installed(name: str, package: str, extra: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(
        ModelError, match=rf"Install it with `pip install -e '\.\[{extra}\]'` in the checkout"
    ) as raised:
        load.model(name)
    assert f"{package} can't be imported" in str(raised.value)
    assert f"torch {importlib.metadata.version('torch')}" in str(raised.value)


def test_a_timm_model_has_the_weights_of_its_seed() -> None:
    timm = pytest.importorskip("timm")
    torch.manual_seed(7)
    expected = timm.create_model("resnet10t", pretrained=False)
    assert same(load.model("timm:resnet10t", seed=7), expected)
    assert not same(load.model("timm:resnet10t", seed=8), expected)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("timm:resnet_10t", r"no model 'resnet_10t' among its \d+.*Near: 'resnet10t'.*timm\.list_models"),
        ("timm:resnet10t.c3_in2k", r"no weights 'resnet10t.c3_in2k'; the tags of resnet10t are: c3_in1k"),
        ("timm:resnet10t@DEFAULT", r"the tags of resnet10t are: c3_in1k.*'timm:resnet10t' has random weights"),
    ],
)
def test_a_name_that_stands_for_no_timm_model(name: str, message: str) -> None:
    pytest.importorskip("timm")
    with pytest.raises(ModelError, match=message):
        load.model(name)


# Weights


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_weights_are_read_from_a_state_dict(suffix: str, study: Path, tmp_path: Path) -> None:
    trained = load.model(f"{study}:make_model", seed=5)
    file = tmp_path / f"weights{suffix}"
    (save_file if suffix == ".safetensors" else torch.save)(trained.state_dict(), file)
    assert same(load.model(f"{study}:make_model", weights=file, seed=6), trained)


def test_weights_of_another_model_are_told_apart(study: Path, tmp_path: Path) -> None:
    file = tmp_path / "other.pt"
    torch.save({"0.weight": torch.zeros(3, 4), "0.bias": torch.zeros(5), "head.weight": torch.zeros(1)}, file)
    with pytest.raises(ModelError) as raised:
        load.model(f"{study}:make_model", weights=file)
    message = str(raised.value)
    assert "2 missing ('2.weight', '2.bias')" in message
    assert "1 unexpected ('head.weight')" in message
    assert "1 of another shape ('0.weight' is (3, 4), not (5, 4))" in message


def test_a_checkpoint_that_holds_more_is_refused(study: Path, tmp_path: Path) -> None:
    file = tmp_path / "checkpoint.pt"
    torch.save({"epoch": 3, "state_dict": nn.Linear(4, 2).state_dict()}, file)
    with pytest.raises(ModelError, match="'epoch', 'state_dict', not a state dict"):
        load.model(f"{study}:ready", weights=file)


class Bomb:
    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str, str]]:
        return open, (self.path, "w")

    def __init__(self, path: Path) -> None:
        self.path = str(path)


def test_weights_are_never_unpickled(study: Path, tmp_path: Path) -> None:
    file, mark = tmp_path / "bomb.pt", tmp_path / "went-off"
    torch.save({"weight": Bomb(mark)}, file)
    with pytest.raises(ModelError, match="never unpickles"):
        load.model(f"{study}:ready", weights=file)
    file.write_bytes(pickle.dumps(Bomb(mark), protocol=2))
    with pytest.raises(ModelError):
        load.model(f"{study}:ready", weights=file)
    assert not mark.exists()


@pytest.mark.parametrize("name", ["cut.pt", "cut.safetensors", "empty.pt", "absent.pt"])
def test_weights_that_cannot_be_read(name: str, study: Path, tmp_path: Path) -> None:
    file = tmp_path / name
    whole = tmp_path / "whole.pt"
    torch.save(nn.Linear(4, 2).state_dict(), whole)
    if not name.startswith("absent"):
        file.write_bytes(whole.read_bytes()[: 300 if name.startswith("cut") else 0])
    with pytest.raises(ModelError, match=name):
        load.model(f"{study}:ready", weights=file)


def test_safetensors_that_is_not_installed(study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "weights.safetensors"
    save_file(nn.Linear(4, 2).state_dict(), file)
    monkeypatch.setitem(sys.modules, "safetensors.torch", None)
    with pytest.raises(ModelError, match="pip install safetensors"):
        load.model(f"{study}:ready", weights=file)


# Data


def save(path: Path, **arrays: Any) -> Path:
    np.savez(path, **arrays)
    return path


def images(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)


def test_digits_are_those_of_scikit_learn() -> None:
    digits = load.arrays("digits")
    expected = load_digits()
    np.testing.assert_array_equal(digits.x_train[:, 0], expected.images)
    np.testing.assert_array_equal(digits.y_train, expected.target)
    assert (digits.x_train.dtype, digits.y_train.dtype, digits.x_test) == (np.float32, np.int64, None)
    assert digits.class_names == tuple("0123456789")


def test_the_digits_data_set_is_scaled_and_in_order() -> None:
    digits = load.dataset("digits")
    x, y = next(iter(DataLoader(digits, batch_size=len(digits))))
    expected = load_digits()
    np.testing.assert_array_equal(x[:, 0].numpy(), (expected.images / 16).astype(np.float32))
    np.testing.assert_array_equal(y.numpy(), expected.target)
    assert digits.classes == list("0123456789")


def test_a_data_set_folder_comes_first(tmp_path: Path) -> None:
    x, y = images(6, 28, 28), np.array([0, 1, 2, 3, 9, 0], np.uint8)
    save(tmp_path / "mnist.npz", x_train=x, y_train=y, x_test=x[:2], y_test=y[:2])
    mnist = load.arrays("mnist", tmp_path)
    np.testing.assert_array_equal(mnist.x_train, x[:, None])
    assert mnist.x_test is not None
    assert mnist.x_test.shape == (2, 1, 28, 28)
    assert mnist.class_names == tuple("0123456789")


def test_cifar10_has_its_class_names(tmp_path: Path) -> None:
    save(tmp_path / "cifar10.npz", x_train=images(3, 3, 32, 32), y_train=np.array([0, 3, 9]))
    cifar = load.dataset("cifar10", data_dir=tmp_path)
    assert [cifar.classes[label] for _, label in cifar] == ["airplane", "cat", "truck"]


def test_torchvisions_own_files_are_read_where_there_is_no_npz(tmp_path: Path) -> None:
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    x, y = images(5, 28, 28), np.array([4, 1, 0, 2, 2], np.uint8)
    for split, n in (("train", 5), ("t10k", 2)):  # the IDX format: magic number, sizes, bytes
        for kind, data in (("images-idx3", x[:n]), ("labels-idx1", y[:n])):
            sizes = np.array([0x800 + data.ndim, *data.shape], ">i4")
            (raw / f"{split}-{kind}-ubyte").write_bytes(sizes.tobytes() + data.tobytes())
    mnist = load.arrays("mnist", tmp_path)
    np.testing.assert_array_equal(mnist.x_train, x[:, None])
    np.testing.assert_array_equal(mnist.y_test, y[:2])


@pytest.mark.parametrize("name", ["mnist", "cifar10"])
def test_a_data_set_that_is_not_there_is_not_downloaded(name: str, tmp_path: Path) -> None:
    with pytest.raises(DataError) as raised:
        load.arrays(name, tmp_path)
    message = str(raised.value)
    assert f"{name}.npz" in message
    assert str(tmp_path) in message
    assert "download=True" in message
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("stored", "expected"),
    [((4, 8, 8), (4, 1, 8, 8)), ((4, 8, 8, 3), (4, 3, 8, 8)), ((4, 3, 8, 8), (4, 3, 8, 8)), ((4, 6), (4, 6))],
)
def test_images_come_out_channel_first(stored: tuple[int, ...], expected: tuple[int, ...], tmp_path: Path) -> None:
    file = save(tmp_path / "mine.npz", x=images(*stored), y=np.array([0, 1, 1, 2]))
    x, label = load.dataset(str(file))[3]
    assert (tuple(x.shape), label) == (expected[1:], 2)
    assert x.dtype == torch.float32
    np.testing.assert_allclose(np.sort(x.numpy().ravel()), np.sort(images(*stored)[3].ravel()) / 255, rtol=1e-6)


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [(np.float64, torch.float32), (np.float16, torch.float32), (np.int32, torch.int64), (np.bool_, torch.float32)],
)
def test_other_values_are_used_as_they_are(dtype: type, expected: torch.dtype, tmp_path: Path) -> None:
    values = np.array([[1, 0, 1], [0, 0, 1]]).astype(dtype)
    file = save(tmp_path / "mine.npz", x_train=values, y_train=np.array([1, 0]), class_names=np.array(["yes", "no"]))
    data = load.dataset(str(file))
    assert data[0][0].dtype == expected
    assert torch.equal(data[0][0], torch.tensor([1, 0, 1], dtype=expected))
    assert data.classes == ["yes", "no"]


@pytest.mark.parametrize("dtype", [">f4", ">f8", ">i2", ">u2"])
def test_arrays_of_a_foreign_byte_order_are_read(dtype: str, tmp_path: Path) -> None:
    values = np.array([[1, 300], [2, 7]])
    data = load.dataset(str(save(tmp_path / "mine.npz", x=values.astype(dtype), y=np.array([0, 1], ">i4"))))
    assert [x.tolist() for x, _ in data] == values.tolist()
    keyed = load.dataset(
        str(save(tmp_path / "keyed.npz", input_ids=values.astype(dtype), label=np.array([0, 1], ">i4")))
    )
    assert [item["input_ids"].tolist() for item in keyed] == values.tolist()


@pytest.mark.parametrize(
    ("split", "limit", "expected"),
    [("train", None, [0, 1, 2]), ("test", None, [2, 1]), ("all", None, [0, 1, 2, 2, 1]), ("all", 4, [0, 1, 2, 2])],
)
def test_splits_and_limits(split: load.Split, limit: int | None, expected: list[int], tmp_path: Path) -> None:
    y = {"y_train": np.array([0, 1, 2]), "y_test": np.array([2, 1])}
    x = {"x_train": np.eye(3), "x_test": -np.eye(3)[[2, 1]]}
    data = load.dataset(str(save(tmp_path / "mine.npz", **x, **y)), split, limit=limit, limit_order="first")
    assert [label for _, label in data] == data.targets == expected
    assert [int(x.abs().argmax()) for x, _ in data] == expected
    assert len(data) == len(expected)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("digits", "test"), "has no test set"),
        (("digits", "validation"), "no split 'validation'.*train, test or all"),
        (("mnits",), "'mnits' isn't a data set.*Near: 'mnist'.*digits, mnist, cifar10, imagefolder:DIR, or a FILE.npz"),
        (("nowhere.npz",), r"no file 'nowhere\.npz'"),
        (("..",), r"'\.\.' is a folder\. With a folder of images for each class in it, it's imagefolder:\.\."),
    ],
)
def test_a_name_or_split_that_is_not_there(arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises(DataError, match=message):
        load.dataset(*arguments)


def test_a_limit_of_nothing() -> None:
    with pytest.raises(DataError, match="limit=0"):
        load.dataset("digits", limit=0)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({}, "has no arrays"),
        ({"z": np.ones(3)}, "has z. It must have x_train and y_train"),
        ({"x": np.ones((3, 2)), "y": np.ones(3, complex)}, "complex128"),
        ({"x": np.ones((3, 2)), "y": np.array([0, 1])}, r"x_train \(3, 2\) and y_train \(2,\)"),
        ({"x": np.ones((2, 2)), "y": np.array([0, -1])}, "from 0 up"),
        ({"x": np.ones((0, 2)), "y": np.ones(0, int)}, "at least one"),
        ({"x": np.array(["a", "b"]), "y": np.array([0, 1])}, "must be numbers"),
        ({"x": np.ones((2, 2)), "y": np.array([0, 2]), "class_names": np.array(["a", "b"])}, "2 class names"),
        ({"x_train": np.ones((2, 2)), "y_train": np.array([0, 1]), "x_test": np.ones((2, 2))}, "no y_test"),
        ({"x": np.array([None, {}]), "y": np.array([0, 1])}, "none that need pickle"),
    ],
)
def test_a_file_that_does_not_fit(arrays: dict[str, Any], message: str, tmp_path: Path) -> None:
    file = save(tmp_path / "mine.npz", **arrays)
    with pytest.raises(DataError, match=message):
        load.arrays(str(file))


@pytest.mark.parametrize("content", [b"", b"not a zip file", b"PK\x03\x04 cut off", pickle.dumps([1, 2])])
def test_a_file_that_is_no_npz(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "mine.npz").write_bytes(content)
    with pytest.raises(DataError, match=r"mine\.npz' can't be read"):
        load.arrays(str(tmp_path / "mine.npz"))


def test_an_npy_file_under_another_name_is_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "mine.npy", np.ones(3))
    file = (tmp_path / "mine.npy").rename(tmp_path / "mine.npz")
    with pytest.raises(DataError, match="can't be read"):
        load.arrays(str(file))
