"""Examples at the end of each command's help."""

from __future__ import annotations

__all__ = ["EXAMPLES", "epilog"]

EXAMPLES = {
    "sites": (
        "probekit sites torchvision:resnet18 --shape 3x224x224",
        "probekit sites nets.py:make_model --data digits --sites '**~*'",
    ),
    "capture": (
        "probekit capture torchvision:resnet18@DEFAULT imagefolder:photos acts.zarr --sites 'layer*'",
        "probekit capture hf:distilbert-base-uncased reviews.csv acts.zarr --reduce tokens --limit 500",
        "probekit capture nets.py:make_model digits acts.zarr --resume",
    ),
    "plan": ("probekit plan torchvision:resnet18 imagefolder:photos --sites 'layer*' --dtype float16",),
    "info": ("probekit info acts.zarr", "probekit info s3://bucket/acts.zarr --json"),
    "verify": ("probekit verify acts.zarr", "probekit verify acts.zarr --repair"),
    "measure": (
        "probekit measure acts.zarr",
        "probekit measure acts.zarr -m auroc -m quantile:0.25,0.75 --sites 'layer4.*' --out m.zarr",
        "probekit measure acts.zarr -m auroc --null permute --ci bootstrap --repeats 200",
        "probekit measure acts.zarr -m median --where label=cat --nodes --csv medians.csv",
    ),
    "top": (
        "probekit top acts.zarr",
        "probekit top acts.zarr --by overlap --class cat --samples 8",
    ),
    "report": (
        "probekit report acts.zarr -o report.html",
        "probekit report m.zarr --store acts.zarr --data imagefolder:photos",
    ),
    "plot": ("probekit plot acts.zarr", "probekit plot m.zarr medians heatmap -o figures --format svg"),
    "export": (
        "probekit export acts.zarr folder --format npy",
        "probekit export acts.zarr folder --format parquet --sites 'layer4.*' --where label=cat",
    ),
    "compare": (
        "probekit compare before.zarr after.zarr -o compare.html",
        "probekit compare seed0.zarr seed1.zarr seed2.zarr -m auroc --sites 'layer4.*'",
    ),
    "metrics": ("probekit metrics",),
    "recipes": ("probekit recipes",),
    "run": ("probekit run relu-vs-sigmoid", "probekit run relu-vs-sigmoid --help"),
    "new": ("probekit new metric spread", "probekit new recipe my-study"),
}


def epilog(command: str) -> str:
    """The examples of a command, each a paragraph, which typer makes a line."""
    return "\n\n".join(["Examples:", *EXAMPLES[command]])
