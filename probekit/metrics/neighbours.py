"""How often the nearest samples have the same class."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, TypeAlias

import numpy as np
import torch
from torch import Tensor

from probekit.metrics._kernels.row_sampling import draws, stratified
from probekit.metrics._kernels.sample_batches import PIECE, pieces
from probekit.metrics._kernels.splits import MeanOfGroups, Split, generators_of
from probekit.metrics.block import Array, Codes
from probekit.metrics.headline import Headline
from probekit.metrics.limits import Limits, at_least
from probekit.metrics.protocol import Parameters, Samples, Spec, Variables
from probekit.metrics.ranges import Ranges, of_accuracy

__all__ = ["KNNAccuracy"]

Distance: TypeAlias = Literal["euclidean", "cosine"]
_TIES = 1e-12  # relative to the largest square: equal distances are put in the order of draws


@dataclass(frozen=True)
class KNNAccuracy(Parameters):
    """Accuracy of the class that most of a sample's nearest neighbours have, beside chance and shuffled labels.

    The class of a sample is guessed from the `neighbours` samples that are nearest to it, over all nodes of the site;
    among classes with equally many votes, that of the nearest sample wins (Cover and Hart 1967; Fix and Hodges 1951).
    The sample itself is left out (leave-one-out), and so are the rows of the same sample, such as its other tokens, and
    those with the same value in the column `split_by`. All are () and float64 in [0, 1], but for the last, int64:

    - `knn_accuracy`: the share of samples whose class is guessed correctly;
    - `knn_accuracy_chance`: the share of the commonest class among them;
    - `knn_accuracy_shuffled`: the accuracy with shuffled labels, the mean over `shuffles` of them; not given for
      ``shuffles=0``;
    - `knn_accuracy_se`: its standard error, √(p (1 − p) / n) where each row is a sample. It takes guesses as
      independent. Near samples share their neighbours, so where classes overlap it is up to a third too small: ask for
      intervals (``ci=``) there;
    - `knn_accuracy_balanced`, `knn_accuracy_balanced_chance` (1 / C), `knn_accuracy_balanced_shuffled` and
      `knn_accuracy_balanced_se`: the mean over the classes of the share of their samples that are guessed correctly;
    - `knn_accuracy_size`: the number n of samples whose class is guessed.

    Guesses are made for at most `size` samples, drawn from each class in proportion to its samples, at least one; their
    neighbours are among all samples. The random choice depends only on `seed` and on a sample's row in the store, so it
    is the same at every site. The samples are read twice, and the `size` of them kept in memory.

    `distance` is ``"euclidean"``, by which nodes with large values outweigh the others, or ``"cosine"``, which compares
    directions from 0; a sample that is all 0 is then equally far from all. Equally near samples are taken in random
    order. NaN with fewer than two classes or none of two samples, with no more samples than neighbours, and
    where a value is infinite.

    Independent classes come to a little less than chance, 1 / C less about 1 / n: a sample that is left out is one less
    of its own class.

    >>> import numpy as np, xarray as xr, probekit as pk
    >>> root = xr.Dataset(coords={"label": ("sample", np.arange(40) % 2)})
    >>> relu = xr.Dataset({"activation": (("sample", "node"), np.eye(2)[np.arange(40) % 2])})
    >>> m = pk.measure(xr.DataTree.from_dict({"/": root, "relu": relu}), "knn_accuracy")["relu"]
    >>> m["knn_accuracy"].item(), m["knn_accuracy_chance"].item()
    (1.0, 0.5)
    """

    neighbours: int = 5
    distance: Distance = "euclidean"
    size: int = 2000
    seed: int = 0
    split_by: str | None = None
    shuffles: int = 10
    limits: ClassVar[Limits] = {
        "neighbours": at_least(1),
        "size": at_least(1),
        "seed": at_least(0),
        "shuffles": at_least(0),
    }
    name: ClassVar[str] = "knn_accuracy"
    ranges: ClassVar[Ranges] = of_accuracy("knn_accuracy")
    headline: ClassVar[Headline] = Headline(
        "knn_accuracy",
        None,
        "the nearest samples mostly have the same class",
        beside="knn_accuracy_chance",
        classes=2,
        missing="it needs two classes, one of several samples, more samples than neighbours, and finite values",
    )

    def memory(self, spec: Spec, samples: int) -> int:
        rows = min(self.size, samples)
        near = min(self.neighbours, samples)
        return 2 * 8 * rows * spec.nodes + 8 * 8 * (rows + spec.nodes) * (PIECE + near) + 64 * samples

    def compute_samples(self, samples: Samples) -> Variables:
        codes = samples.codes
        chosen = stratified(codes, draws(samples.rows, self.seed), self.size)
        nearest = self._nearest(samples, chosen) if len(np.unique(codes)) > 1 else None
        split, nothing = Split.of(samples.units, codes, self.seed), np.zeros(len(codes), bool)
        generators = generators_of(self.seed, self.shuffles)
        found: dict[str, list[float]] = {}
        errors: dict[str, float] = {}
        for labels in (codes, *(split.shuffled(codes, nothing, each) for each in generators)):
            own = labels[chosen]
            hits = np.full(len(own), np.nan) if nearest is None else (_votes(labels[nearest]) == own).astype(float)
            for kind, groups in (("", np.zeros_like(own)), ("_balanced", own)):
                mean = MeanOfGroups.of(groups)
                found.setdefault(kind, []).append(mean.of_values(hits))
                errors.setdefault(kind, mean.error(hits, samples.units[chosen]))
        classes, counts = np.unique(codes[chosen], return_counts=True)
        known = nearest is not None
        chance = {
            "": counts.max() / len(chosen) if known else np.nan,
            "_balanced": 1 / len(classes) if known else np.nan,
        }
        variables: Variables = {}
        for kind, (accuracy, *shuffled) in found.items():
            name = f"knn_accuracy{kind}"
            variables |= {name: ((), np.asarray(accuracy)), f"{name}_chance": ((), np.asarray(chance[kind]))}
            variables |= {f"{name}_shuffled": ((), np.asarray(np.mean(shuffled)))} if shuffled else {}
            variables[f"{name}_se"] = (), np.asarray(errors[kind])
        return variables | {"knn_accuracy_size": ((), np.asarray(len(chosen)))}

    def _nearest(self, samples: Samples, chosen: Codes) -> Codes | None:
        """The places of the nearest samples of each chosen one, the nearest first, (chosen, neighbour).

        None where there are too few, or a value is infinite.
        """
        if samples.number <= self.neighbours or np.bincount(samples.codes).max() < 2:
            return None
        x = self._placed(torch.from_numpy(samples.take(chosen).astype(np.float64)))
        centre = x.mean(0) if self.distance == "euclidean" else x.new_zeros(x.shape[1])
        x -= centre
        if not x.isfinite().all():
            return None
        squares = x.square().sum(1)
        ties = torch.from_numpy(draws(np.arange(samples.number), self.seed + 1)) * _TIES * (float(squares.max()) or 1.0)
        units, of_chosen = torch.tensor(samples.units), torch.tensor(samples.units[chosen])
        best, places = x.new_full((len(x), self.neighbours), torch.inf), torch.full((len(x), self.neighbours), -1)
        for here, batch in pieces(samples):
            others = self._placed(batch) - centre
            apart = torch.addmm(others.square().sum(1) + squares[:, None], x, others.T, alpha=-2).clamp_(min=0)
            if not apart.isfinite().all():
                return None
            apart = apart.add_(ties[here]).masked_fill_(of_chosen[:, None] == units[here], torch.inf)
            best, at = torch.cat([best, apart], 1).topk(self.neighbours, dim=1, largest=False)
            numbers = torch.arange(here.start, here.stop).expand(len(x), -1)
            places = torch.cat([places, numbers], 1).gather(1, at)
        return places.numpy() if bool(best.isfinite().all()) else None

    def _placed(self, x: Tensor) -> Tensor:
        if self.distance == "euclidean":
            return x
        lengths = torch.linalg.vector_norm(x, dim=1, keepdim=True)
        placed: Tensor = x / lengths.where(lengths > 0, 1.0)
        return placed


def _votes(classes: Array) -> Codes:
    """The commonest of each row's `classes` (sample, neighbour), the first of several."""
    votes = (classes[:, :, None] == classes[:, None, :]).sum(2)
    winners: Codes = np.take_along_axis(classes, votes.argmax(1)[:, None], 1)[:, 0]
    return winners
