"""The format of a store, and reading it; docs/store.md is the specification.

- ``layout``: names of groups and arrays, their chunks, and the keys of these.
- ``codec``: chunks as bytes, and back.
- ``record``: the commit record, as one value.
- ``validation``: whether a record of unknown origin is one that a writer makes.
- ``backend``: what a store needs of a folder or an object store; ``local`` and ``object_store`` give it.
- ``markers``: what several processes say of the chunk rows that each has written.
- ``leftovers``: what writers that were killed have left, and its removal.
- ``consolidation``: the record behind what `zarr.consolidate_metadata` wrote over it.
- ``lazy_array``: a record as an xarray tree that reads nothing before it is asked to.
- ``store``: `probekit.open`, `probekit.info`, and laying out a new store.
- ``integrity``: what is damaged; ``verify``: `probekit.verify` and its repair.
- ``sample_columns``: the columns of a site's rows, its own and the root's.
- ``class_names``: classes by name or code; ``selection``: `probekit.sel`.
- ``torch_dataset``: `probekit.as_dataset`.
"""
