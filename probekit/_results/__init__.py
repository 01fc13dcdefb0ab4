"""Trees of results.

- ``assemble``: checks the variables that metrics return, and joins them into the dataset of a site.
- ``opening``: what lies at a path, a store or results.
- ``headlines``: what to look at first in the results of each metric.
- ``steps``: the results of several steps of a training, as one tree with a dim ``step``.
- ``files``: results on disk, whole or not at all.
- ``reading``: the headline of one metric at one site, with what is known of it.
- ``summary``: `probekit.summary`, the headlines of each site.
- ``tables``: `probekit.to_dataframe`.
"""
