"""Models of transformers by name, without a network: saved by save_pretrained, and architectures by their type."""

from __future__ import annotations

import importlib
import json
import re
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from probekit import load
from probekit.errors import ModelError

transformers = pytest.importorskip("transformers")

SMALL = {"vocab_size": 50, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}


def same(a: nn.Module, b: nn.Module) -> bool:
    ours, theirs = a.state_dict(), b.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in ours)


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


@pytest.fixture
def saved() -> nn.Module:
    torch.manual_seed(0)
    made = transformers.BertForSequenceClassification(transformers.BertConfig(num_labels=3, **SMALL))
    assert isinstance(made, nn.Module)
    return made


@pytest.fixture
def folder(saved: Any, tmp_path: Path) -> Path:
    saved.save_pretrained(tmp_path / "bert")
    return tmp_path / "bert"


def change(folder: Path, **values: Any) -> None:
    config = folder / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | values))


def test_a_folder_gives_the_model_that_was_saved_with_its_head(saved: nn.Module, folder: Path) -> None:
    found = load.model(f"hf:{folder}")
    assert type(found) is type(saved)
    assert same(found, saved)


def test_a_config_without_a_class_gives_what_automodel_takes(saved: Any, tmp_path: Path) -> None:
    saved.bert.save_pretrained(tmp_path / "bert")
    change(tmp_path / "bert", architectures=None)
    found = load.model(f"hf:{tmp_path / 'bert'}")
    assert type(found) is transformers.BertModel
    assert same(found, saved.bert)


def test_random_weights_are_asked_for_and_come_from_the_seed(saved: nn.Module, folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    state = torch.get_rng_state()
    first, again, other = (load.model(f"hf:{folder}@random", seed=seed) for seed in (1, 1, 2))
    assert type(first) is type(saved)
    assert same(first, again)
    assert not same(first, other)
    assert torch.equal(torch.get_rng_state(), state)


def test_a_type_needs_no_file() -> None:
    found = load.model("hf:squeezebert@random", seed=1)
    assert type(found) is transformers.SqueezeBertModel
    assert same(found, load.model("hf:squeezebert@random", seed=1))


def test_weights_of_torch_are_read_without_unpickling(saved: nn.Module, folder: Path, tmp_path: Path) -> None:
    (folder / "model.safetensors").unlink()
    torch.save(saved.state_dict(), folder / "pytorch_model.bin")
    assert same(load.model(f"hf:{folder}"), saved)
    torch.save({"bomb": Bomb(tmp_path / "went-off")}, folder / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"aren.t plain tensors.*never unpickles"):
        load.model(f"hf:{folder}")
    assert not (tmp_path / "went-off").exists()


class Bomb:
    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str, str]]:
        return open, (self.path, "w")


KERNEL_KEYS = ("attn_implementation", "_attn_implementation_internal")  # of newer and of older versions


@pytest.mark.parametrize("weights", ["", "@random"])
def test_code_that_comes_with_a_model_is_not_run(weights: str, folder: Path, tmp_path: Path) -> None:
    (folder / "mine.py").write_text(f"open({str(tmp_path / 'went-off')!r}, 'w')")
    change(folder, model_type="mine", auto_map={"AutoConfig": "mine.Config", "AutoModel": "mine.Model"})
    with pytest.raises(ModelError, match=r"code of its own, which probekit doesn't run.*file\.py:factory"):
        load.model(f"hf:{folder}{weights}")
    assert not (tmp_path / "went-off").exists()


def test_kernels_that_a_config_names_are_not_fetched(folder: Path) -> None:
    change(folder, **dict.fromkeys(KERNEL_KEYS, "someone/kernel"))
    with pytest.raises(ModelError, match="attention kernel 'someone/kernel'"):
        load.model(f"hf:{folder}")


def test_kernels_that_a_config_names_for_a_part_are_not_fetched_either(tmp_path: Path) -> None:
    part = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    transformers.CLIPConfig(text_config=part, vision_config=part).save_pretrained(tmp_path)
    vision = {**part, **dict.fromkeys(KERNEL_KEYS, "someone/kernel")}
    change(tmp_path, attn_implementation={"vision_config": "someone/kernel"}, vision_config=vision)
    with pytest.raises(ModelError, match="attention kernel 'someone/kernel'"):
        load.model(f"hf:{tmp_path}@random")


def test_weights_that_are_not_all_there_are_told(folder: Path) -> None:
    change(folder, num_hidden_layers=2)
    with pytest.warns(UserWarning, match=r"lack 'bert\.encoder\.layer\.1\..* and 13 more .*they are random"):
        load.model(f"hf:{folder}")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("hf:", "There is no folder ''"),
        ("hf:./nowhere", "There is no folder './nowhere'"),
        ("hf:bert-of-nobody", r"'hf:bert-of-nobody' can't be loaded by transformers [\d.]+: \w+: "),
        ("hf:gpt2", "'hf:gpt2@random' is that type of model with random weights"),
        ("hf:gtp2@random", "Near: 'gpt2'"),
        ("hf:gpt2@main", "asks for weights 'main'.*'hf:gpt2' has its saved weights, 'hf:gpt2@random' random"),
    ],
)
def test_a_name_that_stands_for_no_saved_model(name: str, message: str) -> None:
    with pytest.raises(ModelError, match=message) as raised:
        load.model(name)
    assert "\n" not in str(raised.value)


def test_a_folder_without_weights_is_not_made_random_in_silence(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=f"no weights .*'hf:{re.escape(str(folder))}@random'"):
        load.model(f"hf:{folder}")
    shutil.rmtree(folder)
    folder.mkdir()
    with pytest.raises(ModelError, match=r"has no config\.json"):
        load.model(f"hf:{folder}@random")


def test_weights_of_another_size_and_damaged_ones_are_refused(folder: Path) -> None:
    change(folder, intermediate_size=40)
    with pytest.raises(ModelError, match=r"don't fit its config: 3 of another shape .* is \(32,\), not \(40,\)"):
        load.model(f"hf:{folder}")
    (folder / "model.safetensors").write_bytes(b"cut")
    with pytest.raises(ModelError, match="SafetensorError"):
        load.model(f"hf:{folder}")


@pytest.mark.parametrize("offline_asked", [False, True])
def test_a_hub_that_does_not_answer_is_asked_once_and_named(
    offline_asked: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", offline_asked)
    asked = []

    def silent(url: str, timeout: float) -> None:
        asked.append(url)
        raise ConnectionError("no way there")

    monkeypatch.setattr("huggingface_hub.get_hf_file_metadata", silent)
    begin = time.perf_counter()
    with pytest.raises(
        ModelError, match=r"'hf:nobody/nothing' can't be loaded .* The Hub doesn't answer: no way there"
    ):
        load.model("hf:nobody/nothing")
    assert time.perf_counter() - begin < 5  # transformers by itself takes half a minute
    assert [url.endswith("/nobody/nothing/resolve/main/config.json") for url in asked] == [True]


def test_a_folder_asks_the_hub_for_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    constants = importlib.import_module("huggingface_hub").constants
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    asked: list[bool] = []
    made = transformers.BertForSequenceClassification.__init__

    def asking(self: Any, *arguments: Any, **options: Any) -> None:  # as a part does that has weights of its own there
        asked.append(constants.HF_HUB_OFFLINE)
        made(self, *arguments, **options)

    monkeypatch.setattr(transformers.BertForSequenceClassification, "__init__", asking)
    load.model(f"hf:{folder}")
    assert asked == [True]
    assert constants.HF_HUB_OFFLINE is False
