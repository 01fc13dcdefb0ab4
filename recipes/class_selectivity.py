"""How classes come apart through the depth of a classifier: overlap, selectivity, probe and rank, layer by layer."""

from __future__ import annotations

import json
import math
import re
import shutil
from collections import Counter
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import torch.nn.functional as F
from torch import nn
from torch.optim.lr_scheduler import OneCycleLR
from torch.utils.data import DataLoader, Dataset, Subset

import probekit as pk
from probekit.errors import DataError, ModelError
from probekit.progress import Progress, silent
from probekit.report import Outcome

__all__ = ["run"]

DIGITS = "digits"
METRICS = ["overlap:null='permute'", "auroc", "selectivity", "linear_probe", "effective_rank"]
FIGURES = {"overlap": "overlap", "selectivity": "selectivity", "probe": "linear_probe", "rank": "effective_rank"}
ACTIVATIONS = (nn.ReLU, nn.GELU, nn.SiLU, nn.Sigmoid, nn.Tanh, nn.LeakyReLU, nn.ELU, nn.Hardswish)


def run(
    *,
    model: Annotated[
        str | None,
        "A classifier by name, such as torchvision:resnet18@DEFAULT, timm:NAME.tag, hf:FOLDER or file.py:factory; by "
        "default a small CNN that is trained on 1,000 digits, and measured on the 797 others.",
    ] = None,
    data: Annotated[str, "Labelled images or texts: imagefolder:DIR, reviews.csv, hfdata:NAME, cifar10 …"] = DIGITS,
    split: Annotated[Literal["train", "test", "all"], "Which samples of data that have several parts."] = "train",
    sites: Annotated[tuple[str, ...] | None, "Globs of the layers; by default the model's blocks, in order."] = None,
    limit: Annotated[int | None, "Take so many samples only, each class's share."] = None,
    per_class: Annotated[int, "The number of best nodes of each class."] = 3,
    device: Annotated[str, "The device that the model runs on."] = "cpu",
    seed: Annotated[int, "Seed of the training, and of the samples that --limit takes."] = 0,
    data_dir: Annotated[Path | None, "The folder that holds mnist, cifar10 and the like."] = None,
    out: Annotated[Path, "Where the run's folder is made."] = Path("runs"),
    progress: Progress = silent,
) -> Outcome:
    """Measure how the classes come apart from layer to layer, and which nodes tell each class.

    Writes activations (acts.zarr), metrics, figures, tables and report.html under OUT/class-selectivity/DATA/MODEL. A
    run that is started again resumes its capture and makes the rest anew. Feature maps and tokens are averaged over
    their positions.
    """
    folder = out / "class-selectivity" / _file_name(data) / _file_name(model or "small-cnn")
    folder.mkdir(parents=True, exist_ok=True)
    if model is not None:
        net, preprocess = pk.load.model(model, seed=seed), pk.load.preprocess(model)
        samples = pk.load.dataset(data, split, limit=limit, seed=seed, data_dir=data_dir, preprocess=preprocess)
    elif data == DIGITS and limit is None:
        net, samples = small_cnn(folder / "weights.pt", seed, progress)
    else:
        raise DataError("The default model knows the digits, all of them: give --model for other data or a limit.")
    chosen = sites or layers_of(net)
    settings = {"model": model, "data": data, "split": split, "sites": chosen, "limit": limit, "seed": seed}
    (folder / "config.json").write_text(json.dumps(settings, indent=2) + "\n")

    store = folder / "acts.zarr"
    how: dict[str, Any] = {"reduce": "mean", "predictions": "auto", "resume": True, "progress": progress}
    pk.capture(net.to(device), samples, store, sites=chosen, **how)
    shutil.rmtree(folder / "metrics.zarr", ignore_errors=True)  # of a run before
    measured = pk.measure(store, METRICS, out=folder / "metrics.zarr", progress=progress)

    for name, variable in FIGURES.items():
        pk.plot.profile(measured, variable).save(folder / "figures" / f"{name}.png")
    by_layer, best = pk.summary(measured), pk.top(measured, by="auroc", per_class=per_class)
    (folder / "tables").mkdir(exist_ok=True)
    by_layer.to_dataframe().to_csv(folder / "tables" / "by-layer.csv", index=False)
    best.to_dataframe().to_csv(folder / "tables" / "best-nodes.csv", index=False)
    title = f"Class selectivity: {model or 'a small CNN'} on {data}"
    report = pk.report.write(measured, folder / "report.html", store=store, title=title, data=samples)
    return Outcome(report, {"By layer": by_layer.table.to_dataframe(), "Best nodes": best.to_dataframe()})


def layers_of(model: nn.Module) -> tuple[str, ...]:
    """The outputs that show a network's depth: its blocks, or else its activation functions, in order.

    A block is one of several modules of one class that hold other modules, such as BasicBlock or BertLayer: of the
    commonest class and, where several are as common, of the outermost.

    Raises:
        ModelError: there are neither.
    """
    modules = {name: module for name, module in model.named_modules() if name}
    blocks = {name: m for name, m in modules.items() if any(m.children()) and not isinstance(m, _CONTAINERS)}
    common = Counter(map(type, blocks.values())).most_common(1)
    if common and common[0][1] > 1:
        return tuple(name for name, module in blocks.items() if type(module) is common[0][0])
    activations = tuple(name for name, module in modules.items() if isinstance(module, ACTIVATIONS))
    if not activations:
        raise ModelError(
            f"{type(model).__name__} has no blocks of one class, and no modules of activation functions. Say which of "
            "its sites are the layers, with --sites; `probekit sites` lists them.",
            arguments=("sites",),
        )
    return activations


_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


def small_cnn(weights: Path, seed: int, progress: Progress) -> tuple[nn.Module, Dataset[Any]]:
    """A CNN that was trained on 1,000 digits, and the others; its `weights` are read from the file or written there."""
    digits = pk.load.dataset(DIGITS)
    order = torch.randperm(len(digits), generator=torch.Generator().manual_seed(seed))
    held_out = Subset(digits, sorted(order[1000:].tolist()))
    torch.manual_seed(seed)
    net = nn.Sequential(
        *(nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()),
        *(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10)),
    )
    if weights.exists():
        net.load_state_dict(torch.load(weights, weights_only=True))
        return net, held_out
    x, y = next(iter(DataLoader(Subset(digits, order[:1000].tolist()), batch_size=1000)))
    epochs, batch = 20, 64
    optimizer = torch.optim.Adam(net.parameters())
    rates = OneCycleLR(optimizer, 1e-2, epochs * math.ceil(len(x) / batch))
    for _ in progress(range(epochs), "train the small CNN", epochs):
        for rows in torch.randperm(len(x)).split(batch):
            optimizer.zero_grad()
            F.cross_entropy(net(x[rows]), y[rows]).backward()
            optimizer.step()
            rates.step()
    torch.save(net.state_dict(), weights)
    return net, held_out


def _file_name(name: str) -> str:
    return re.sub(r"[^\w.@+-]+", "-", name.rstrip("/")).strip("-")
