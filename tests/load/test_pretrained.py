"""Models with their own weights and preprocessing, by name: files of random weights lie where the libraries look."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from safetensors.torch import save_file
from torch import nn

import probekit as pk
from probekit import load
from probekit._provenance import facts_of
from probekit.errors import DataError, ModelError


@pytest.fixture
def weights_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The weights of resnet18 where torch keeps what it has downloaded; random ones."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    path = tmp_path / "torch" / "hub" / "checkpoints" / "resnet18-f37072fd.pth"
    path.parent.mkdir(parents=True)
    torch.manual_seed(5)
    torch.save(torchvision.models.resnet18().state_dict(), path)
    return path


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for name in ("cat", "dog"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for number in range(3):
            pixels = rng.integers(0, 256, (250 + 10 * number, 300, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "photos" / name / f"{number}.png")
    return tmp_path / "photos"


def test_pretrained_torchvision_equals_a_loop_by_hand(
    weights_file: Path, photos: Path, tmp_path: Path, call: Any
) -> None:
    code, _, err = call(
        "capture", "torchvision:resnet18@IMAGENET1K_V1", f"imagefolder:{photos}", "acts.zarr",
        "-s", "layer*", "--reduce", "mean", "--batch-size", 4,
    )  # fmt: skip
    assert code == 0
    assert "mean=[0.485, 0.456, 0.406]" in err
    weights = torchvision.models.ResNet18_Weights.IMAGENET1K_V1
    data = torchvision.datasets.ImageFolder(str(photos), weights.transforms())
    model = torchvision.models.resnet18()
    model.load_state_dict(torch.load(weights_file))
    model.eval()
    seen: dict[str, list[torch.Tensor]] = {}
    for name in ("layer1", "layer4"):
        layer = getattr(model, name)
        layer.register_forward_hook(lambda _m, _i, out, name=name: seen.setdefault(name, []).append(out.mean((2, 3))))
    with torch.no_grad():
        for start in (0, 4):
            model(torch.stack([data[index][0] for index in range(start, min(start + 4, 6))]))
    tree = pk.open("acts.zarr")
    for name, parts in seen.items():
        np.testing.assert_allclose(tree[name]["activation"].values, torch.cat(parts).numpy(), rtol=1e-5, atol=1e-6)
    assert tree["path"].values.tolist() == [f"{name}/{number}.png" for name in ("cat", "dog") for number in range(3)]
    attrs = pk.info("acts.zarr").attrs
    assert attrs["model_name"] == "torchvision:resnet18@IMAGENET1K_V1"
    assert attrs["weights_from"] == "IMAGENET1K_V1 of torchvision (resnet18-f37072fd.pth)"
    assert attrs["preprocessing_steps"]["resize_size"] == [256]
    assert attrs["command"].startswith("probekit capture torchvision:resnet18@IMAGENET1K_V1 imagefolder:")


def test_weights_that_are_missing_say_which_file_goes_where(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))

    def no_network(*_: Any, **__: Any) -> None:
        raise OSError("no network")

    monkeypatch.setattr(torch.hub, "download_url_to_file", no_network)
    with pytest.raises(ModelError, match=r"resnet18-f37072fd\.pth, which isn't in .*checkpoints.*no network.*download"):
        load.model("torchvision:resnet18@DEFAULT")


def test_weights_that_would_run_code_are_refused(weights_file: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.mkdir, (str(weights_file.parent / "made"),)

    torch.save({"a": Evil()}, weights_file)
    with pytest.raises(ModelError, match="isn't a plain state dict"):
        load.model("torchvision:resnet18@DEFAULT")
    assert not (weights_file.parent / "made").exists()


def test_a_store_says_that_weights_were_changed(weights_file: Path) -> None:
    model = load.model("torchvision:resnet18@DEFAULT")
    assert "changed" not in facts_of(model)["weights_from"]
    model.fc.weight.data[3, 4] += 1e-3
    assert facts_of(model)["weights_from"].endswith(", changed since they were loaded")


def test_random_weights_are_told(call: Any, photos: Path) -> None:
    code, _, err = call(
        "capture", "torchvision:squeezenet1_1", f"imagefolder:{photos}", "b.zarr", "-s", "features.0", "--reduce", "max"
    )
    assert code == 0
    assert "torchvision:squeezenet1_1 has random weights, seed 0" in err
    assert "not normalised" in err
    assert pk.info("b.zarr").attrs["weights_from"] == "random, seed 0"


def hub_file(monkeypatch: pytest.MonkeyPatch, folder: Path, repository: str, name: str, state: Any) -> None:
    """A file of weights in the cache of the Hugging Face Hub."""
    constants = pytest.importorskip("huggingface_hub").constants
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(folder))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    root = folder / f"models--{repository.replace('/', '--')}"
    snapshot = root / "snapshots" / ("a" * 40)
    snapshot.mkdir(parents=True)
    (root / "refs").mkdir()
    (root / "refs" / "main").write_text("a" * 40)
    save_file({key: value.contiguous() for key, value in state.items()}, snapshot / name)


def test_timm_takes_the_weights_and_the_transform_of_a_tag(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, photos: Path
) -> None:
    timm = pytest.importorskip("timm")
    torch.manual_seed(1)
    made = timm.create_model("resnet10t", pretrained=False)
    hub_file(monkeypatch, tmp_path, "timm/resnet10t.c3_in1k", "model.safetensors", made.state_dict())
    monkeypatch.setattr("timm.models._hub.HF_HUB_CACHE", str(tmp_path), raising=False)
    model = load.model("timm:resnet10t.c3_in1k")
    for name, value in made.state_dict().items():
        assert torch.equal(model.state_dict()[name], value)
    preprocess = load.preprocess("timm:resnet10t.c3_in1k")
    assert preprocess is not None
    config = timm.data.resolve_model_data_config(model)
    image = Image.open(photos / "cat" / "1.png")
    expected = timm.data.create_transform(**config, is_training=False)(image)
    assert torch.equal(preprocess.images(image), expected)
    data = load.dataset(f"imagefolder:{photos}", preprocess=preprocess)
    assert torch.equal(data[1][0], expected)
    assert facts_of(data)["preprocessing_steps"]["input_size"] == (3, 176, 176)


@pytest.mark.filterwarnings("ignore::FutureWarning")  # peft asks transformers for what it renames
def test_adapters_of_peft_change_what_a_model_gives(tmp_path: Path) -> None:
    peft, transformers = pytest.importorskip("peft"), pytest.importorskip("transformers")
    base = transformers.GPT2Model(transformers.GPT2Config(n_layer=1, n_embd=8, n_head=2, vocab_size=20))
    base.save_pretrained(tmp_path / "base")
    config = peft.LoraConfig(target_modules=["c_attn"], fan_in_fan_out=True, init_lora_weights=False)
    with_adapter = peft.get_peft_model(base, config).eval()
    with_adapter.save_pretrained(tmp_path / "adapter")
    model = load.model(f"hf:{tmp_path / 'base'}+adapter:{tmp_path / 'adapter'}")
    ids = torch.tensor([[1, 2, 3]])
    with torch.no_grad():
        found, expected = model(ids).last_hidden_state, with_adapter(ids).last_hidden_state
        plain = load.model(f"hf:{tmp_path / 'base'}")(ids).last_hidden_state
    torch.testing.assert_close(found, expected)
    assert not torch.allclose(found, plain)
    with pytest.raises(ModelError, match=r"The adapter of .* can't be loaded by peft"):
        load.model(f"hf:{tmp_path / 'base'}+adapter:{tmp_path / 'photos'}")


def test_open_clip_without_a_network_says_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("open_clip")
    monkeypatch.setattr("probekit.load.open_clip_models.fault_of_hub", lambda _: " The Hub doesn't answer.")
    with pytest.raises(ModelError, match=r"laion2b_s34b_b79k.*hf download laion/CLIP-ViT-B-32"):
        load.model("open_clip:ViT-B-32@laion2b_s34b_b79k")
    with pytest.raises(ModelError, match="no weights 'laion2b' of ViT-B-32; there are: openai"):
        load.preprocess("open_clip:ViT-B-32@laion2b")
    transform = load.preprocess("open_clip:ViT-B-32@laion2b_s34b_b79k")
    assert transform is not None
    assert transform.images(Image.new("L", (300, 240))).shape == (3, 224, 224)


def test_what_belongs_before_a_model_is_asked_for_by_kind() -> None:
    images = load.preprocess("torchvision:resnet18@DEFAULT")
    assert images is not None
    with pytest.raises(DataError, match="takes no texts"):
        _ = images.texts
    assert load.preprocess("torchvision:resnet18") is None
    assert load.preprocess("study.py:make_model") is None


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"normalize": "imagnet"}, "normalize is 'imagnet'.*Near: 'imagenet'"),
        ({"normalize": "1,2/3"}, "mean and the standard deviation of each channel"),
        ({"normalize": "1/0"}, "normalize is '1/0'"),
        ({"resize": 0}, "resize is 0"),
        ({"resize": (1, 2, 3)}, "resize is"),
        ({"name": "nowhere.py:make"}, "There is no file 'nowhere.py'"),
    ],
)
def test_transforms_that_are_none(given: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        load.image_transform(**given)


def test_a_usual_transform_equals_torchvisions(photos: Path) -> None:
    transform = load.image_transform(resize=32, normalize="0.5,0.4,0.3/0.2,0.3,0.4")
    image = Image.open(photos / "dog" / "2.png")
    t = torchvision.transforms
    steps = [t.Resize(32), t.CenterCrop(32), t.ToTensor(), t.Normalize((0.5, 0.4, 0.3), (0.2, 0.3, 0.4))]
    assert torch.equal(transform(image), t.Compose(steps)(image))
    assert "normalised by mean 0.5, 0.4, 0.3" in transform.words


STUDY = """
import torch
from torch.utils.data import TensorDataset
from torchvision import transforms

def make_data():
    torch.manual_seed(0)
    return TensorDataset(torch.randn(20, 4), torch.arange(20) % 3)

def make_transform():
    return transforms.Compose([transforms.Resize((8, 9)), transforms.ToTensor()])

def make_model():
    torch.manual_seed(1)
    return torch.nn.Linear(4, 3)

def nothing():
    return None
"""


def test_data_and_transforms_of_ones_own(tmp_path: Path, photos: Path, call: Any) -> None:
    study = tmp_path / "study.py"
    study.write_text(STUDY)
    code, _, err = call("capture", f"{study}:make_model", f"{study}:make_data", "own.zarr")
    assert code == 0
    data = load.dataset(f"{study}:make_data")
    model = load.model(f"{study}:make_model")
    x, y = data.tensors
    accuracy = float((model(x).argmax(1) == y).float().mean())
    assert "Accuracy" not in err  # nothing says how many classes there are
    code, _, err = call("capture", f"{study}:make_model", f"{study}:make_data", "kept.zarr", "--predictions")
    assert f"Accuracy: {accuracy:.1%} of 20 samples" in err
    assert pk.info("kept.zarr").accuracy == pytest.approx(accuracy)
    images = load.dataset(f"imagefolder:{photos}", preprocess=load.image_transform(f"{study}:make_transform"))
    assert images[0][0].shape == (3, 8, 9)
    with pytest.raises(DataError, match="gives its own samples, so limit=3"):
        load.dataset(f"{study}:make_data", limit=3)
    with pytest.raises(DataError, match="returned a NoneType"):
        load.dataset(f"{study}:nothing")
    with pytest.raises(DataError, match="returned a NoneType"):
        load.image_transform(f"{study}:nothing")


def test_a_network_with_normalisation_has_the_accuracy_that_it_has(tmp_path: Path, call: Any) -> None:
    """A classifier that depends on its normalisation: right with it, by hand and by the command line."""
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 256, (40, 3, 8, 8), dtype=np.uint8), np.arange(40) % 10
    np.savez(tmp_path / "mine.npz", x=x, y=y, class_names=np.array([f"c{n}" for n in range(10)]))
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(192, 10))
    torch.save(net.state_dict(), tmp_path / "net.pt")
    factory = "from torch import nn\ndef make():\n    return nn.Sequential(nn.Flatten(), nn.Linear(192, 10))\n"
    (tmp_path / "net.py").write_text(factory)
    code, _, err = call(
        "capture", f"{tmp_path / 'net.py'}:make", str(tmp_path / "mine.npz"), "n.zarr", "--weights",
        str(tmp_path / "net.pt"), "--normalize", "cifar10",
    )  # fmt: skip
    assert code == 0
    mean, deviation = (
        torch.tensor(each).view(3, 1, 1) for each in ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616))
    )
    logits = net((torch.from_numpy(x) / 255 - mean) / deviation)
    accuracy = float((logits.argmax(1) == torch.from_numpy(y)).float().mean())
    assert f"Accuracy: {accuracy:.1%} of 40 samples" in err
    stored = json.loads(Path("n.zarr/zarr.json").read_text())["attributes"]
    assert stored["preprocessing_steps"]["normalize"]["std"] == [0.2470, 0.2435, 0.2616]
