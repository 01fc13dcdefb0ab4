"""Watching what a Trainer trains: which steps the watch is called with, and that the training is the same."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import probekit as pk
from probekit._measure.watch import Watch
from probekit.callbacks import LightningWatch, TrainerWatch

# What these packages say of themselves and of the machine, as they load and run, is not ours.
pytestmark = pytest.mark.filterwarnings("ignore")

X, Y = torch.randn(40, 4, generator=torch.Generator().manual_seed(0)), torch.arange(40) % 2


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Dropout(0.2), nn.Linear(5, 2))


class _Calls:
    """A watch that keeps what it is called with."""

    def __init__(self) -> None:
        self.steps: list[int] = []

    def __call__(self, step: int) -> None:
        self.steps.append(step)


LIGHTNINGS = ("lightning.pytorch", "pytorch_lightning")


@pytest.fixture(params=LIGHTNINGS)
def pl(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    module = pytest.importorskip(request.param)
    for other in set(LIGHTNINGS) - {request.param}:
        monkeypatch.delitem(sys.modules, other, raising=False)
    return module


def _fit(
    pl: Any, folder: Path, callbacks: list[Any], *, checkpoint: Any = None, epochs: int = 2, **options: Any
) -> Any:
    """A module after a fit of ten batches an epoch, and its trainer."""

    class Module(pl.LightningModule):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.net = net()

        def training_step(self, batch: list[Tensor], index: int) -> Tensor:
            return nn.functional.cross_entropy(self.net(batch[0]), batch[1])

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.Adam(self.parameters(), lr=0.01)

    module = Module()
    for callback in callbacks:
        if isinstance(callback, LightningWatch) and callback._watch is None:
            callback._watch = Watch(module.net, (X, Y), "sparsity", every=5, sites="1", out=folder / "w", resume=True)
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    trainer = pl.Trainer(
        max_epochs=epochs, callbacks=callbacks, default_root_dir=folder, enable_checkpointing=False, **quiet, **options
    )
    torch.manual_seed(2)
    trainer.fit(module, DataLoader(TensorDataset(X, Y), batch_size=4, shuffle=True), ckpt_path=checkpoint)
    return module, trainer


@pytest.mark.parametrize(
    ("on", "options", "steps"),
    [
        ("step", {}, list(range(21))),
        ("step", {"accumulate_grad_batches": 5}, [0, 1, 2, 3, 4]),
        ("epoch", {}, [0, 1, 2]),
    ],
)
def test_lightning_calls_the_watch_once_a_step(
    pl: Any, tmp_path: Path, on: Any, options: Any, steps: list[int]
) -> None:
    calls = _Calls()
    _fit(pl, tmp_path, [LightningWatch(calls, on=on)], **options)  # type: ignore[arg-type]
    assert calls.steps == steps


def test_lightning_measures_what_it_trains_and_trains_the_same(pl: Any, tmp_path: Path) -> None:
    without, _ = _fit(pl, tmp_path, [])
    watched, trainer = _fit(pl, tmp_path, [LightningWatch(None)])  # type: ignore[arg-type]
    for name, value in without.state_dict().items():
        assert torch.equal(watched.state_dict()[name], value)
    found = trainer.callbacks[0]._watch.results
    assert found["step"].values.tolist() == [0, 5, 10, 15, 20]
    untrained, trained = (pk.measure_live(each, (X, Y), "sparsity", sites="1") for each in (net(), watched.net))
    np.testing.assert_array_equal(found["1"]["sparsity"].sel(step=0), untrained["1"]["sparsity"])
    np.testing.assert_array_equal(found["1"]["sparsity"].sel(step=20), trained["1"]["sparsity"])


def test_lightning_resumes_from_a_checkpoint(pl: Any, tmp_path: Path) -> None:
    _, trainer = _fit(pl, tmp_path, [LightningWatch(None)], epochs=1)  # type: ignore[arg-type]
    trainer.save_checkpoint(tmp_path / "half.ckpt")
    whole, _ = _fit(pl, tmp_path, [LightningWatch(None)], checkpoint=tmp_path / "half.ckpt")  # type: ignore[arg-type]
    found = Watch(whole.net, X, "mean", out=tmp_path / "w", resume=True).results
    assert found["step"].values.tolist() == [0, 5, 10, 15, 20]


def test_the_hugging_face_trainer_measures_what_it_trains_and_trains_the_same(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("accelerate")

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = net()

        def forward(self, x: Tensor, labels: Tensor) -> dict[str, Tensor]:
            logits = self.net(x)
            return {"loss": nn.functional.cross_entropy(logits, labels), "logits": logits}

    def trained(callbacks: Any) -> tuple[Net, Any]:
        model = Net()
        arguments = transformers.TrainingArguments(
            output_dir=str(tmp_path),
            num_train_epochs=2,
            per_device_train_batch_size=4,
            gradient_accumulation_steps=2,
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
            use_cpu=True,
        )
        rows = [{"x": x, "labels": y} for x, y in zip(X, Y, strict=True)]
        made = callbacks(model)
        transformers.Trainer(model=model, args=arguments, train_dataset=rows, callbacks=made).train()
        return model, made

    without, _ = trained(lambda model: [])
    calls = _Calls()
    watches: list[Watch] = []

    def both(model: Net) -> list[Any]:
        watches.append(Watch(model.net, (X, Y), "sparsity", every=5, sites="1", out=tmp_path / "w"))
        return [TrainerWatch(watches[0]), TrainerWatch(calls)]  # type: ignore[arg-type]

    watched, made = trained(both)
    assert all(isinstance(each, transformers.TrainerCallback) and isinstance(each, TrainerWatch) for each in made)
    assert calls.steps == list(range(11))
    for name, value in without.state_dict().items():
        assert torch.equal(watched.state_dict()[name], value)
    found = watches[0].results
    assert found["step"].values.tolist() == [0, 5, 10]
    trained_now = pk.measure_live(watched.net, (X, Y), "sparsity", sites="1")
    np.testing.assert_array_equal(found["1"]["sparsity"].sel(step=10), trained_now["1"]["sparsity"])


@pytest.mark.parametrize(
    ("callback", "packages", "extra"),
    [(LightningWatch, ("lightning", "pytorch_lightning"), "lightning"), (TrainerWatch, ("transformers",), "hf")],
)
def test_a_package_that_is_missing_is_named_with_its_extra(
    monkeypatch: pytest.MonkeyPatch, callback: Any, packages: tuple[str, ...], extra: str
) -> None:
    for package in packages:
        for name in [name for name in sys.modules if name.split(".")[0] == package]:
            monkeypatch.delitem(sys.modules, name)
        monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(pk.errors.PluginError, match=rf"needs {packages[0]}, .*: `pip install -e '\.\[{extra}\]'`"):
        callback(_Calls())


def test_what_lightning_counts_is_checked() -> None:
    pytest.importorskip("lightning")
    with pytest.raises(pk.errors.DataError, match="on is 'batch'; it is 'step' or 'epoch'"):
        LightningWatch(_Calls(), on="batch")  # type: ignore[arg-type]
