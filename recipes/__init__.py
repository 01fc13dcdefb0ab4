"""Whole studies, each built on the public names of probekit alone."""
