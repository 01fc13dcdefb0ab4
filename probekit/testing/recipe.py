"""The contract of recipes, as a test."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from probekit._recipe import Recipe
from probekit.progress import silent
from probekit.report import Outcome
from probekit.testing.law import ConformanceError

__all__ = ["check_recipe"]


def check_recipe(recipe: Any, **options: Any) -> Outcome:
    """Run a recipe, a module with a function ``run``, with `options`, and give its Outcome.

    Raises:
        PluginError: its parameters aren't options, or it returns no Outcome.
        ConformanceError: the report that it returns isn't there, or a table isn't a DataFrame.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from types import SimpleNamespace
        >>> import pandas as pd
        >>> from probekit.report import Outcome, Page
        >>> def run(*, count: int = 1, progress=None):
        ...     page = Page("Counts").write(Path(tempfile.mkdtemp()) / "report.html")
        ...     return Outcome(page, {"Counts": pd.DataFrame({"count": [count]})})
        >>> check_recipe(SimpleNamespace(run=run), count=3).tables["Counts"]["count"].tolist()
        [3]
    """
    import pandas as pd

    checked = Recipe.of(getattr(recipe, "__name__", "this"), recipe)
    outcome = checked.run(**options, progress=silent)
    checked.check_outcome(outcome)
    if not Path(outcome.report).is_file():
        raise ConformanceError(f"The recipe returned the report {outcome.report}, and there is no such file.")
    for title, table in outcome.tables.items():
        if not isinstance(table, pd.DataFrame):
            raise ConformanceError(f"The table {title!r} of the recipe is a {type(table).__name__}, not a DataFrame.")
    return outcome  # type: ignore[no-any-return]
