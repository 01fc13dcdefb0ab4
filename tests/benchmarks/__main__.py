"""All benchmarks, one process each, as one table and as JSON: ``make bench``, or ``python tests/benchmarks``."""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from time import perf_counter
from typing import Any

from harness import Table, print_tables

FOLDER = Path(__file__).parent
PACKAGES = (
    "probekit-torch",
    "torch",
    "torchvision",
    "numpy",
    "zarr",
    "xarray",
    "flox",
    "h5py",
    "captum",
    "nnsight",
    "torchlens",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small and few, to see that all of it runs")
    parser.add_argument(
        "--scale", action="store_true", help="large measurements, which take minutes and gigabytes, alone"
    )
    parser.add_argument("--out", type=Path, default=Path("bench.json"), help="where the JSON goes")
    options = parser.parse_args()
    start = perf_counter()
    results = {
        file.stem.removeprefix("bench_"): run(file, ["--quick"] * options.quick)
        for file in sorted(FOLDER.glob("scale*.py" if options.scale else "bench_*.py"))
    }
    about = machine()
    content = {"machine": about, "quick": options.quick, "benchmarks": results}
    options.out.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n")
    print(", ".join(f"{name} {value}" for name, value in about.items() if name != "versions"))
    print_tables([Table.from_json(result) for tables in results.values() for result in tables])
    if options.quick:
        print("Quick: too small for the limits to say anything.")
    print(f"{perf_counter() - start:.0f} seconds; all rounds in {options.out}")


def run(file: Path, arguments: list[str]) -> list[Mapping[str, Any]]:
    """What one benchmark measures, in a process of its own."""
    print(f"{file.stem} …", file=sys.stderr, flush=True)
    with tempfile.TemporaryDirectory() as folder:
        table = Path(folder) / "table.json"
        subprocess.run([sys.executable, file, *arguments, "--json", table], check=True)
        return json.loads(table.read_text())


def machine() -> dict[str, Any]:
    threads = subprocess.run(
        [sys.executable, "-c", "import torch; print(torch.get_num_threads())"],
        check=True,
        capture_output=True,
        text=True,
    )
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "cores": os.cpu_count(),
        "torch_threads": int(threads.stdout),
        "processor": processor(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "versions": {name: installed for name in PACKAGES if (installed := installed_version(name))},
    }


def processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.processor())


def installed_version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


if __name__ == "__main__":
    main()
