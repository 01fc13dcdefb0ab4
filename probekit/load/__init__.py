"""Models and data by name, with what belongs between them: ``torchvision:resnet18@DEFAULT``, ``hf:NAME_OR_FOLDER``,
``study.py:make_model``; ``digits``, ``mine.npz``, ``imagefolder:DIR``, ``reviews.csv``, ``hfdata:NAME``.

A name never runs code that the user didn't name. Only torchvision's own CIFAR-10 files are unpickled, after torchvision
has verified their checksums.
"""

from __future__ import annotations

from probekit.load.arrays import ArrayDataset, Arrays, Split, arrays
from probekit.load.data import dataset
from probekit.load.examples import example
from probekit.load.images import ImageFolder
from probekit.load.keywords import KeywordDataset
from probekit.load.models import model
from probekit.load.preprocess import Preprocess, preprocess
from probekit.load.texts import TextDataset
from probekit.load.transforms import ImageTransform, image_transform

__all__ = [
    "ArrayDataset",
    "Arrays",
    "ImageFolder",
    "ImageTransform",
    "KeywordDataset",
    "Preprocess",
    "Split",
    "TextDataset",
    "arrays",
    "dataset",
    "example",
    "image_transform",
    "model",
    "preprocess",
]
