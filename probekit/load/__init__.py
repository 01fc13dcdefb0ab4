"""Models and data sets by name: ``torchvision:resnet18``, ``timm:NAME``, ``hf:NAME_OR_FOLDER``,
``study.py:make_model``; ``digits``, ``mine.npz``, ``imagefolder:DIR``.

A name never runs code that the user didn't name. Only torchvision's own CIFAR-10 files are unpickled, after torchvision
has verified their checksums.
"""

from __future__ import annotations

from probekit.load.data import ArrayDataset, Arrays, Split, arrays, dataset
from probekit.load.examples import example
from probekit.load.images import ImageFolder
from probekit.load.keywords import KeywordDataset
from probekit.load.models import model

__all__ = ["ArrayDataset", "Arrays", "ImageFolder", "KeywordDataset", "Split", "arrays", "dataset", "example", "model"]
