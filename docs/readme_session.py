"""Record the session that the README shows, as a picture; the tests compare it with what the commands print now."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import tempfile
from html import unescape
from io import StringIO
from pathlib import Path

from rich.console import Console
from rich.terminal_theme import MONOKAI
from rich.text import Text

from docs.readme_metrics import README

PICTURE = Path(__file__).parent / "images" / "session.svg"
COLUMNS = 96
COMMANDS = (
    "probekit capture nets.py:make_model digits acts.zarr --sites 2",
    "probekit measure acts.zarr -m auroc -m overlap -m sparsity",
    "probekit top acts.zarr --class 3 --class 8 --per-class 2 --samples 1",
)


def session() -> Console:
    """What a terminal shows of the commands, run on the README's model in a folder of their own."""
    terminal = Console(record=True, width=COLUMNS, file=StringIO(), color_system="truecolor")
    model = re.findall(r"^```python\n(.*?)^```", README.read_text("utf-8"), re.DOTALL | re.MULTILINE)[1]
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "nets.py").write_text(model)
        for command in COMMANDS:
            terminal.print(Text(f"$ {command}", "bold"))
            terminal.print(Text.from_ansi(_printed(command, folder)))
            terminal.print()
    return terminal


def _printed(command: str, folder: str) -> str:
    """What a command prints on a terminal of so many columns."""
    _, *arguments = shlex.split(command)
    run = [sys.executable, "-c", "from probekit.cli import main; main(prog_name='probekit')", *arguments]
    terminal = {"FORCE_COLOR": "1", "COLUMNS": str(COLUMNS), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        run,
        cwd=folder,
        env={**os.environ, **terminal},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=True,
    )
    return done.stdout.rstrip()


def picture(recorded: Console) -> str:
    """The session as SVG, in whatever font of fixed width a browser has."""
    svg = recorded.export_svg(title="probekit", theme=MONOKAI, unique_id="session")
    return re.sub(r"@font-face \{.*?\}\s*", "", svg, flags=re.DOTALL)


def words(svg: str) -> str:
    """What a picture says, but for its numbers, which depend on the machine, and the widths that these make."""
    said = "".join(map(unescape, re.findall(r'<text class="session-r\d+"[^>]*>(.*?)</text>', svg)))
    return re.sub(r"[\d.]+|–", "0", re.sub(r"[━─\s]+", "", said))


if __name__ == "__main__":
    PICTURE.write_text(picture(session()), "utf-8")
