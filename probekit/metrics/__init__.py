"""The metrics that come with probekit, and the protocol to write more."""

from __future__ import annotations

from probekit.metrics.alignment import CKA
from probekit.metrics.auroc import AUROC
from probekit.metrics.block import Block
from probekit.metrics.coactivation import Coactivation, NodeCorrelation
from probekit.metrics.collapse import NeuralCollapse
from probekit.metrics.dimension import TwoNN
from probekit.metrics.dormant import Dormant
from probekit.metrics.extremes import Max, Min
from probekit.metrics.feature_entropy import FeatureEntropy
from probekit.metrics.gradients import GradientNorm
from probekit.metrics.headline import Headline
from probekit.metrics.histogram import Histogram
from probekit.metrics.hypersphere import Alignment, Uniformity
from probekit.metrics.information import Entropy, MutualInformation
from probekit.metrics.ks import KS
from probekit.metrics.moments import Count, Mean, Std, Var
from probekit.metrics.neighbours import KNNAccuracy
from probekit.metrics.order import OrderMetric, Quantile, median
from probekit.metrics.overlap import Overlap
from probekit.metrics.probes import LinearProbe
from probekit.metrics.protocol import (
    ColumnMetric,
    Metric,
    RelabelledStates,
    Relabelling,
    SampleMetric,
    Samples,
    Spec,
    State,
    StreamingMetric,
    StreamRelabelling,
    Variables,
    metric,
)
from probekit.metrics.regression import Correlation, RidgeProbe
from probekit.metrics.rsa import RSA
from probekit.metrics.saturation import Saturation
from probekit.metrics.selectivity import Perplexity, Selectivity
from probekit.metrics.separation import DPrime, Fisher, Separability
from probekit.metrics.shape import Kurtosis, Skewness
from probekit.metrics.silhouette import Silhouette
from probekit.metrics.sparseness import LifetimeSparseness, PopulationSparseness
from probekit.metrics.sparsity import AlwaysOn, Dead, Sparsity
from probekit.metrics.spectrum import EffectiveRank, ParticipationRatio, RankMe, StableRank
from probekit.metrics.subspaces import PWCCA, SVCCA, Procrustes
from probekit.metrics.top import TopSamples
from probekit.metrics.variability import CDNV
from probekit.metrics.wasserstein import Wasserstein
from probekit.metrics.weights import WeightAlignment

__all__ = [
    "AUROC",
    "CDNV",
    "CKA",
    "KS",
    "PWCCA",
    "RSA",
    "SVCCA",
    "Alignment",
    "AlwaysOn",
    "Block",
    "Coactivation",
    "ColumnMetric",
    "Correlation",
    "Count",
    "DPrime",
    "Dead",
    "Dormant",
    "EffectiveRank",
    "Entropy",
    "FeatureEntropy",
    "Fisher",
    "GradientNorm",
    "Headline",
    "Histogram",
    "KNNAccuracy",
    "Kurtosis",
    "LifetimeSparseness",
    "LinearProbe",
    "Max",
    "Mean",
    "Metric",
    "Min",
    "MutualInformation",
    "NeuralCollapse",
    "NodeCorrelation",
    "OrderMetric",
    "Overlap",
    "ParticipationRatio",
    "Perplexity",
    "PopulationSparseness",
    "Procrustes",
    "Quantile",
    "RankMe",
    "RelabelledStates",
    "Relabelling",
    "RidgeProbe",
    "SampleMetric",
    "Samples",
    "Saturation",
    "Selectivity",
    "Separability",
    "Silhouette",
    "Skewness",
    "Sparsity",
    "Spec",
    "StableRank",
    "State",
    "Std",
    "StreamRelabelling",
    "StreamingMetric",
    "TopSamples",
    "TwoNN",
    "Uniformity",
    "Var",
    "Variables",
    "Wasserstein",
    "WeightAlignment",
    "median",
    "metric",
]
