"""Linear classifiers that are trained on the activations of a site."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from probekit._beats import in_turn
from probekit.metrics._kernels.linear_classifiers import METHODS, KeptRows, MethodName, Training, kept_bytes
from probekit.metrics._kernels.penalties import PENALTIES, best_penalty, validation_rows
from probekit.metrics._kernels.splits import SPLIT_LIMITS, Mask, MeanOfGroups, Split, check_folds, generators_of, wilson
from probekit.metrics.block import Array, Codes
from probekit.metrics.headline import Headline
from probekit.metrics.limits import Limits
from probekit.metrics.protocol import Parameters, Samples, Spec, Variables
from probekit.metrics.ranges import SIZE, Ranges, of_accuracy

__all__ = ["LinearProbe"]


@dataclass(frozen=True)
class LinearProbe(Parameters):
    """Accuracy of a linear classifier of the classes on held-out samples, beside chance and shuffled labels.

    A classifier is trained on the values of all nodes of a site, and predicts the classes of samples that it was not
    trained on (Alain and Bengio 2017). All are () and float64, in [0, 1] unless something else is said:

    - `linear_probe`: the share of held-out rows that it classifies correctly;
    - `linear_probe_chance`: the share of held-out rows that have the class that is commonest among the training rows;
    - `linear_probe_shuffled`: the accuracy of classifiers that were trained on shuffled labels, the mean over
      `shuffles` of them; not given for ``shuffles=0``;
    - `linear_probe_se`: the standard error of the accuracy, √(p (1 − p) / n) where each row is a sample; of K folds,
      whose classifiers share training rows, √(1 + K / (K − 1)) times that (Nadeau and Bengio 2003);
    - `linear_probe_effective_size`, above 0: how many independent rows have that standard error, n or less;
    - `linear_probe_balanced`: the mean over the classes of the share of their held-out rows that are classified
      correctly (Brodersen et al. 2010), which a common class doesn't raise; `linear_probe_balanced_chance`: 1 / C, what
      saying one class comes to with C classes among the held-out rows; `linear_probe_balanced_shuffled`,
      `linear_probe_balanced_se` and `linear_probe_balanced_effective_size`: as above;
    - `linear_probe_alpha`, above 0: the penalty α, the geometric mean where parts in turn have several;
    - `linear_probe_held_out`, int64: the number of held-out rows.

    `method` is the classifier. The nodes are standardised by the mean and the standard deviation of the training rows,
    so nodes of any scale count alike, and constant ones not at all. α penalises the weights W of n training rows:

    - ``"logistic"``: multinomial logistic regression, which minimises mean cross-entropy + ½α‖W‖² (Cox 1958), that of
      scikit-learn's ``LogisticRegression(C=1 / (α n))``. For two classes, W are the weights of the one hyperplane
      between them. It reads the rows once for each of some dozen steps. Up to 256 MiB of a site's rows are kept in
      memory for that; more are read anew;
    - ``"lda"``: linear discriminant analysis (Fisher 1936; Friedman 1989) with the covariance within the classes plus α
      on its diagonal, and the classes' shares as priors;
    - ``"ridge"``: least squares of one 0-or-1 target a class, mean squared error + α‖W‖². With more than two classes it
      may never say one that lies between others (masking: Hastie, Tibshirani and Friedman 2009, section 4.2).

    The latter two read the rows a few times, and need memory for the square of the number of nodes.

    `alpha` is α. By default it is chosen, since what suits depends on the site: a penalty that helps among many noisy
    nodes hides classes that lie close together. Of the decades from 100 to 1e-6, it is the one with which a classifier
    does best on a quarter of the training units of each class when trained on the others (Hastie, Tibshirani and
    Friedman 2009, section 7.2), the largest of equals: by cross-entropy for ``"logistic"``, which tries no smaller one
    after two in turn that are no better, and by mistakes for the others. It is 1 where no class has two units. The
    classifier is then trained on all training rows. The held-out rows have no part in the choice; shuffled labels are
    trained on with the same α.

    The share `held_out` of the samples of each class is held out, at least one where the class has two; or each of
    `folds` parts in turn, which tests every sample once. The rows of a sample, such as tokens, stay on one side; so do
    all rows with the same value in the column `split_by`, such as the speaker's, for which samples aren't independent.
    Such units go by the class that most of their rows have. The random choice depends only on `seed` and on the
    sample's place in the store, so sites with the same rows are split alike. Shuffling deals the classes out anew among
    the training units and among the held-out ones (among rows, where units have several classes).

    The standard errors take rows of a unit as dependent (Liang and Zeger 1986), and the classifiers as given. So do the
    intervals of the two accuracies, Wilson's (1927) of the effective size. Other variables have none. NaN with
    fewer than two classes among the training rows, without held-out rows, and where a value is infinite or so large
    that its square is. A held-out row of a class that has no training rows counts as wrong.

    High accuracy means that the site contains the classes in linear form, not that the network uses them. Wide sites
    make it easier: with more nodes than training samples nearly anything can be separated in training, so only the
    held-out samples are evidence.

    Until version 4 the standard error took folds as independent. Version 2 had α = 1e-3 by default. Version 1 didn't
    standardise single nodes, split by row, drew rows without regard to their class, and took ridge by default.

    >>> import numpy as np, xarray as xr, probekit as pk
    >>> root = xr.Dataset(coords={"label": ("sample", np.arange(100) % 2)})
    >>> relu = xr.Dataset({"activation": (("sample", "node"), np.eye(2)[np.arange(100) % 2])})
    >>> m = pk.measure(xr.DataTree.from_dict({"/": root, "relu": relu}), pk.metrics.LinearProbe())["relu"]
    >>> m["linear_probe"].item(), m["linear_probe_chance"].item(), m["linear_probe_held_out"].item()
    (1.0, 0.5, 26)
    """

    method: MethodName = "logistic"
    alpha: float | None = None
    held_out: float = 0.25
    seed: int = 0
    folds: int | None = None
    split_by: str | None = None
    shuffles: int = 1
    limits: ClassVar[Limits] = SPLIT_LIMITS
    name: ClassVar[str] = "linear_probe"
    ranges: ClassVar[Ranges] = {
        **of_accuracy("linear_probe"),
        **dict.fromkeys(["linear_probe_effective_size", "linear_probe_balanced_effective_size"], SIZE),
        "linear_probe_alpha": SIZE,
    }
    interval: ClassVar[str] = "formula"  # leaving samples out trains anew, and makes intervals up to twice too wide
    version: ClassVar[int] = 4
    headline: ClassVar[Headline] = Headline(
        "linear_probe",
        None,
        "a linear classifier finds the class of new samples",
        beside="linear_probe_chance",
        classes=2,
        missing="it needs two classes among the training samples, held-out samples, and finite values",
    )

    def memory(self, spec: Spec, samples: int) -> int:
        check_folds(self.folds, samples)
        nodes, classes = spec.nodes, spec.classes
        rows = kept_bytes(samples, nodes, spec.dtype.itemsize) + 64 * samples
        if self.method == "logistic":
            return rows + 30 * 8 * classes * (nodes + 1) + 3 * 8 * 1024 * (nodes + classes)  # its last steps, a batch
        return rows + 4 * 8 * nodes**2 + 6 * 8 * classes * nodes + 3 * 8 * 1024 * (nodes + classes)

    def compute_samples(self, samples: Samples) -> Variables:
        codes = samples.codes
        split = Split.of(samples.units, codes, self.seed)
        masks = split.masks(self.held_out, self.folds)
        test = np.any([np.zeros(len(codes), bool), *masks], axis=0)
        trained = masks and all(len(np.unique(codes[~mask])) > 1 for mask in masks)
        rows, alphas = KeptRows(samples), np.full(len(masks), np.nan)
        labels, hits = self._untried(codes)
        if trained:
            first = in_turn(masks, [1.0] * len(masks), then=len(masks))
            alphas = np.array([self.alpha or _chosen(rows, split, ~mask, self.method, codes) for mask in first])
            labels, hits = self._tried(rows, codes, split, masks, alphas)
        labels, hits, units = labels[:, test], hits[:, test], samples.units[test]
        found: Variables = {}
        for name, groups in (("linear_probe", np.zeros_like(labels)), ("linear_probe_balanced", labels)):
            means = [MeanOfGroups.of(each) for each in groups]
            chance, accuracy, *shuffled = [mean.of_values(each) for mean, each in zip(means, hits, strict=True)]
            found[name] = (), np.asarray(accuracy)
            found[f"{name}_chance"] = (), np.asarray(chance)
            if shuffled:
                found[f"{name}_shuffled"] = (), np.asarray(np.mean(shuffled))
            found[f"{name}_se"] = (), np.asarray(means[1].error(hits[1], units, self.folds))
            found[f"{name}_effective_size"] = (), np.asarray(means[1].effective_size(hits[1], units, self.folds))
        guessed = 1 / len(np.unique(codes[test])) if trained else np.nan
        found["linear_probe_balanced_chance"] = (), np.asarray(guessed)
        found["linear_probe_alpha"] = (), 10 ** np.log10(alphas).mean() if trained else np.asarray(np.nan)
        return found | {"linear_probe_held_out": ((), np.asarray(test.sum()))}

    def intervals(self, variables: Variables, confidence: float) -> dict[str, tuple[Array, Array]]:
        names = ("linear_probe", "linear_probe_balanced")
        return {name: wilson(variables[name][1], variables[f"{name}_effective_size"][1], confidence) for name in names}

    def _untried(self, codes: Codes) -> tuple[Codes, Array]:
        shape = 2 + self.shuffles, len(codes)
        return np.broadcast_to(codes, shape), np.full(shape, np.nan)

    def _tried(
        self, rows: KeptRows, codes: Codes, split: Split, masks: list[Mask], alphas: Array
    ) -> tuple[Codes, Array]:
        """Labels, and whether each held-out row is given its label, as 0 or 1: (classifier, row) both.

        The first classifier says the commonest class, the second one is that of the labels, and the others are those of
        shuffled labels. NaN where a value is infinite.
        """
        labels, hits = (each.copy() for each in self._untried(codes))
        generators = generators_of(self.seed, self.shuffles)
        for mask, alpha in zip(in_turn(masks), alphas, strict=True):
            training = Training(rows, ~mask)
            hits[0, mask] = codes[mask] == np.bincount(codes[~mask]).argmax()
            labellings = [codes, *(split.shuffled(codes, mask, each) for each in generators)]
            for n, dealt in enumerate(in_turn(labellings), 1):
                classifier = training.fit(self.method, dealt, alpha)
                predicted = None if classifier is None else classifier.predict(rows, mask)
                labels[n, mask] = dealt[mask]
                hits[n, mask] = np.nan if predicted is None else predicted == dealt[mask]
        return labels, hits


def _chosen(rows: KeptRows, split: Split, training: Mask, method: MethodName, codes: Codes) -> float:
    """The α with the least loss on a part of the training rows, when the others are trained on."""
    validation = validation_rows(split, training)
    path = Training(rows, training & ~validation).path(method, codes, PENALTIES) if validation.any() else ()
    _, loss, rises = METHODS[method]
    return best_penalty((each.loss(rows, validation, codes, loss) for each in path), rises)
