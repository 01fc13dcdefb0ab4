"""Sphinx: pages in Markdown (MyST), executed as they are built, every warning an error."""

from __future__ import annotations

import importlib.metadata
import os
import re
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx

from docs import notebooks

project = "probekit"
author = "The probekit authors"
copyright = author
release = importlib.metadata.version("probekit-torch")

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build", "examples", "results"]

html_theme = "furo"
html_title = "probekit"
html_static_path = ["_static"]
html_css_files = ["tables.css"]

# Each study lies beside its page as a notebook.
html_extra_path = ["_build/notebooks"]
notebooks.write(Path(__file__).parent / html_extra_path[0])

# Pages run in a folder of their own, so that what they write isn't left in docs/.
nb_execution_mode = "force"
nb_execution_in_temp = True
nb_execution_raise_on_error = True
nb_execution_timeout = 120
nb_merge_streams = True
os.environ["TQDM_DISABLE"] = "1"  # pages show no progress bars

myst_enable_extensions = ["dollarmath"]

autodoc_member_order = "bysource"
autodoc_preserve_defaults = True

# Signatures show short names of types, one parameter a line where one line would be too long. The aliases below keep
# their names, which docs/reference.md explains under "Types in signatures".
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
python_maximum_signature_line_length = 90
python_display_short_literal_types = True
python_use_unqualified_type_names = True
ALIASES = "Array ArrayLike Codes Loss Picture Record Reduction Selector State Tabular Variables Where"
autodoc_type_aliases = {alias: alias for alias in ALIASES.split()} | {
    "Metric": "probekit.metrics.Metric",
    "npt.ArrayLike": "ArrayLike",
}


def setup(app: Sphinx) -> None:
    app.connect("autodoc-process-signature", _readable)
    app.connect("source-read", _offer_notebook)


def _offer_notebook(app: Sphinx, page: str, source: list[str]) -> None:
    """A line below the title of a study that leads to its notebook."""
    if page in notebooks.STUDIES:
        link = f'<a href="{page}.ipynb" download>This page as a notebook</a>, to run in Jupyter.'
        source[0] = re.sub(r"^(# .+\n)", rf"\1\n{link}\n", source[0], count=1, flags=re.MULTILINE)


def _readable(app: Sphinx, kind: str, name: str, thing: Any, options: Any, signature: str | None, returns: str | None):
    """A signature without what Sphinx leaves in it: how it marks an alias in a union, how a protocol isn't made."""
    if getattr(thing, "_is_protocol", False) and kind == "class":
        return "", None
    return tuple(text and re.sub(r"TypeAliasForwardRef\('([\w.]+)'\)", r"\1", text) for text in (signature, returns))
