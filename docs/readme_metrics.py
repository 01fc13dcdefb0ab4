"""Write the table of metrics into the README from what is registered; the tests compare the two."""

from __future__ import annotations

from pathlib import Path

from probekit._measure.catalogue import describe_metrics

README = Path(__file__).parents[1] / "README.md"
BEGIN, END = "<!-- metrics: made by `make readme` -->\n", "<!-- end of metrics -->\n"


def table() -> str:
    """A Markdown table of probekit's own metrics."""
    rows = [
        f"| `{metric.name}` | {metric.kind} | {metric.shape} | {metric.summary} |"
        for metric in describe_metrics()
        if metric.source.startswith("probekit-torch ")
    ]
    return "\n".join(["| metric | kind | shape | what it gives |", "|---|---|---|---|", *rows]) + "\n"


def with_table(readme: str) -> str:
    """The README with the table as it should be."""
    before, rest = readme.split(BEGIN)
    return before + BEGIN + table() + END + rest.split(END)[1]


if __name__ == "__main__":
    README.write_text(with_table(README.read_text()))
