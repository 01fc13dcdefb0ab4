"""Sphinx: pages in Markdown (MyST), run as they are built, every warning an error."""

from __future__ import annotations

import importlib.metadata

project = "probekit"
author = "The probekit authors"
copyright = author
release = importlib.metadata.version("probekit")

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build", "examples", "results"]

html_theme = "furo"
html_title = "probekit"

# Pages run in a folder of their own, so that what they write isn't left in docs/.
nb_execution_mode = "force"
nb_execution_in_temp = True
nb_execution_raise_on_error = True
nb_execution_timeout = 120
nb_merge_streams = True

myst_enable_extensions = ["dollarmath"]

autodoc_member_order = "bysource"
autodoc_typehints = "none"
autodoc_preserve_defaults = True
