"""The figures of a study: `paper` has the paper's, `beyond` those of quantities that the paper didn't measure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..study import Study
from .beyond import (
    auroc,
    effective_ranks,
    gradient_norms,
    linear_probes,
    neural_collapse,
    overlap,
    selectivity,
    sparsity_by_rate,
)
from .paper import Made, fig1, fig2, fig3, fig4, fig5, fig6, fig7

__all__ = ["OF_MERGED", "Drawn", "draw", "figures_of"]

# A figure's function draws it and gives its numbers and its caption.
OF_EACH: dict[str, Callable[..., Made]] = {
    "fig1": fig1,
    "fig2": fig2,
    "fig3": fig3,
    "fig4": fig4,
    "fig5": fig5,
    "fig6": fig6,
    "fig7": fig7,
    "overlap": overlap,
    "auroc": auroc,
    "gradient_norms": gradient_norms,
    "selectivity": selectivity,
    "linear_probes": linear_probes,
    "effective_ranks": effective_ranks,
    "neural_collapse": neural_collapse,
}
OF_MERGED: dict[str, Callable[..., Made]] = {"fig2": fig2, "fig7": fig7}  # those that show several studies


def figures_of(study: Study) -> dict[str, Callable[..., Made]]:
    """The figures for which a study has the numbers."""
    return OF_EACH if study.searched is None else {**OF_EACH, "sparsity_by_rate": sparsity_by_rate}


@dataclass(frozen=True)
class Drawn:
    """A figure on disk and its caption."""

    path: Path
    caption: str


def draw(figures: Mapping[str, Callable[..., Made]], studies: Sequence[Study], folder: Path) -> dict[str, Drawn]:
    """Draw the studies' figures in `folder`: each is ``<name>.png`` with its numbers in ``<name>.csv``."""
    folder.mkdir(parents=True, exist_ok=True)
    drawn = {}
    for name, make in figures.items():
        figure, numbers, caption = make(*studies)
        figure.savefig(folder / f"{name}.png", dpi=150)
        numbers.to_csv(folder / f"{name}.csv", index=False)
        drawn[name] = Drawn(folder / f"{name}.png", caption)
    return drawn
