"""Finished runs on different data sets put together, as the paper has MNIST and CIFAR10."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd

from probekit.errors import DataError
from probekit.report import Outcome, Page

from . import claims, figures, page, table
from .claims import TESTS, Claim
from .study import Study, settings_of

__all__ = ["merge"]


def merge(folders: Sequence[Path], out: Path) -> Outcome:
    """Figures 2 and 7, Table 1 and the claims over the runs in `folders`, under ``out/<data sets>``."""
    names = [settings_of(folder).dataset for folder in folders]
    if len(names) < 2 or len(set(names)) < len(names):
        raise DataError(f"A merge takes runs on two or more different data sets; these are on {', '.join(names)}.")
    studies = [Study.read(folder) for folder in folders]
    folder = out / "+".join(names)
    (folder / "tables").mkdir(parents=True, exist_ok=True)
    drawn = figures.draw({"fig2": figures.fig2, "fig7": figures.fig7}, studies, folder / "figures")
    sparsity = table.sparsity_table(*studies)
    sparsity.to_csv(folder / "tables" / "table1.csv", index=False)
    results = pd.concat([study.results for study in studies], ignore_index=True)
    results.to_csv(folder / "results.csv", index=False)
    decided = {name: claims.claims(study) for name, study in zip(names, studies, strict=True)}
    found = [_together(number, decided) for number in range(len(TESTS))]
    claims.write(found, folder / "claims.json")
    report = Page(f"ReLU and sigmoid networks on {' and '.join(names)}", page.LEDE)
    report.numbers({"networks trained": len(results), "claims held": page.counted(found)})
    report.heading("The claims").text(page.CLAIMS).text(
        "A claim about several data sets held if it held on each on which it could be tested; effect and error are "
        "those of the first that decides it."
    )
    report.table(_frame(decided, found), "The paper's claims on these runs.", badges=page.BADGES, formats=".3g")
    report.heading("Accuracy").figure(drawn["fig2"].path, drawn["fig2"].caption)
    report.heading("What the nodes do").figure(drawn["fig7"].path, drawn["fig7"].caption)
    page.sparsity_section(report, sparsity, studies)
    tables = {"Table 1: % inactive ± standard error (the paper's)": table.printed(sparsity)}
    return Outcome(report=report.write(folder / "report.html"), tables=tables)


def _together(number: int, decided: dict[str, list[Claim]]) -> Claim:
    """A claim over all the data sets of the runs that it speaks of; `numbers` has each one's own."""
    own = {name: found[number] for name, found in decided.items() if name in TESTS[number].about}
    own = own or {name: found[number] for name, found in decided.items()}
    testable = [claim for claim in own.values() if claim.status != "not_testable"]
    deciding = [claim for claim in testable if claim.status == "not_held"] or testable or list(own.values())
    numbers: dict[str, object] = {
        name: {
            "status": claim.status,
            "effect": claim.effect,
            "standard_error": claim.standard_error,
            **claim.numbers,
        }
        for name, claim in own.items()
    }
    if not testable:
        numbers["reason"] = " ".join(dict.fromkeys(str(claim.numbers["reason"]) for claim in own.values()))
    return replace(deciding[0], numbers=numbers)


def _frame(decided: dict[str, list[Claim]], found: Sequence[Claim]) -> pd.DataFrame:
    frame = page.claims_frame(found).rename(columns={"here": "over all"})
    for name, own in decided.items():
        frame.insert(3, name, [claim.status.replace("_", " ") for claim in own])
    return frame
