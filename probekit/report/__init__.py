"""Self-contained HTML pages: reports of stores and results, pages of your own, and what a recipe returns."""

from __future__ import annotations

from probekit.report.page import Outcome, Page, Picture
from probekit.report.report import write
from probekit.report.tables import Tabular

__all__ = ["Outcome", "Page", "Picture", "Tabular", "write"]
