"""Trees of results.

- ``assemble``: from what metrics return to the dataset of a site.
- ``steps``: the results of several steps of a training, as one tree with a dim ``step``.
- ``files``: results on disk, whole or not at all.
- ``tables``: `probekit.summary` and `probekit.to_dataframe`.
"""
