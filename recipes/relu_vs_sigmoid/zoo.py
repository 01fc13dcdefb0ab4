"""The networks of a run as files that others can start from: weights as safetensors, and what made them as JSON."""

from __future__ import annotations

import importlib
import json
from dataclasses import asdict
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from probekit.errors import DataError

from .data import Split
from .settings import Settings
from .training.jobs import Jobs, trained
from .training.networks import Config, Trained, build

__all__ = ["export", "load", "safetensors"]


def safetensors() -> ModuleType:
    """The module ``safetensors.torch``; DataError with the command that installs it if it can't be imported."""
    try:
        return importlib.import_module("safetensors.torch")
    except ImportError as error:
        raise DataError(
            f"Networks are exported as safetensors, which can't be imported ({error}): `pip install safetensors`."
        ) from error


def export(jobs: Jobs, folder: Path) -> list[Path]:
    """Write every trained network of a finished run to ``folder/NAME.safetensors``, beside NAME.json.

    The weights are those that the run measures. The JSON has the network's kind, its seed, rate and accuracies, the
    class names, and how a sample is scaled before it is flattened: (x - mean) / deviation, of each channel.
    """
    folder.mkdir(parents=True, exist_ok=True)
    networks = [network for configs in jobs.settings.shapes for network in trained(configs, jobs)[0]]
    return [_write(network, jobs.settings, jobs.split, folder) for network in networks]


def _write(network: Trained, settings: Settings, split: Split, folder: Path) -> Path:
    snapshot = network.trained(settings.weights_of)
    path = folder / f"{settings.dataset}-{network.member.name}.safetensors"
    weights = {name: tensor.contiguous().cpu() for name, tensor in snapshot.network.state_dict().items()}
    safetensors().save_file(weights, path)
    told: dict[str, Any] = {
        **asdict(network.member.config),
        "seed": network.member.seed,
        "learning_rate": network.member.learning_rate,
        "dataset": settings.dataset,
        "weights_of": settings.weights_of,
        **{name: value for name, value in vars(snapshot).items() if name != "network"},
        "class_names": split.class_names,
        "features": split.features,
    }
    if split.scaling is not None:
        mean, deviation = (values.reshape(-1).tolist() for values in split.scaling)
        told["scaling"] = {"mean": mean, "deviation": deviation}
    path.with_suffix(".json").write_text(json.dumps(told, indent=2) + "\n")
    return path


def load(path: Path) -> nn.Sequential:
    """The network that a run exported to ``NAME.safetensors``, in eval mode; NAME.json lies beside it.

    It takes scaled, flattened samples (n, features) and gives logits (n, classes). `build` names its modules.
    """
    told = path.with_suffix(".json")
    if not path.exists() or not told.exists():
        raise DataError(f"{str(path)!r} is no exported network: it takes NAME.safetensors and NAME.json beside it.")
    found = json.loads(told.read_text())
    config = Config(*(found[name] for name in ("activation", "depth", "width", "batch_norm")))
    network = build(config, found["features"], len(found["class_names"]), found["seed"])
    network.load_state_dict(safetensors().load_file(path))
    return network.eval()
