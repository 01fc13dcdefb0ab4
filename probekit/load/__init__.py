"""Models and data sets by name: ``torchvision:resnet18``, ``study.py:make_model``, ``digits``, ``mine.npz``,
``imagefolder:DIR``.

A name never runs code that the user didn't name. Nothing is unpickled but torchvision's own CIFAR-10 files, whose
checksums torchvision verifies first.
"""

from __future__ import annotations

from probekit.load.data import ArrayDataset, Arrays, ImageFolder, Split, arrays, dataset
from probekit.load.models import model

__all__ = ["ArrayDataset", "Arrays", "ImageFolder", "Split", "arrays", "dataset", "model"]
