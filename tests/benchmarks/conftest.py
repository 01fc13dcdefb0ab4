"""Benchmarks are run, not tested: ``make bench``."""

collect_ignore_glob = ["*.py"]
