"""Write the table of metrics into the README from what is registered; the tests compare the two."""

from __future__ import annotations

import inspect
from pathlib import Path

from probekit import plugins
from probekit.metrics import StreamingMetric

README = Path(__file__).parents[1] / "README.md"
BEGIN, END = "<!-- metrics: made by `make readme` -->\n", "<!-- end of metrics -->\n"


def table() -> str:
    """A Markdown table of probekit's own metrics."""
    rows = ["| metric | kind | what it gives |", "|---|---|---|"]
    for plugin, metric in plugins.load_all(plugins.METRICS).items():
        if plugin.distribution == "probekit":
            kind = (
                "streaming"
                if isinstance(metric() if isinstance(metric, type) else metric, StreamingMetric)
                else "column"
            )
            summary = (inspect.getdoc(metric) or "").partition("\n")[0]
            rows.append(f"| `{plugin.name}` | {kind} | {summary} |")
    return "\n".join(rows) + "\n"


def with_table(readme: str) -> str:
    """The README with the table as it should be."""
    before, rest = readme.split(BEGIN)
    return before + BEGIN + table() + END + rest.split(END)[1]


if __name__ == "__main__":
    README.write_text(with_table(README.read_text()))
