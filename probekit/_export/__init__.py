"""A store's rows in the files of other tools.

- ``export``: `probekit.export`.
- ``site_rows``: the columns of a site, read a few rows at a time.
- ``arrays``: numpy's files and safetensors.
- ``arrow``: parquet and Hugging Face data sets.
"""
