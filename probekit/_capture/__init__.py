"""Capture and its plan.

- ``capture``: `probekit.capture` and `probekit.plan`.
- ``plan``: sites, rows, bytes, chunks and row buffers, before anything is written.
- ``job``: one call of `capture`: what is done about a store that exists, and with which other processes.
- ``session``: one capture as it runs, into a new or an existing store.
- ``generation``: `probekit.generate`; ``answer_settings``: how a model answers, and what is known of its answers.
- ``comparison``: whether the data have the columns of the samples that the store holds.
- ``fingerprint``: whether a capture has the settings of the one that it resumes; `probekit.weights_digest`.
- ``process_group``: the processes that capture into one store together.
- ``token_counts``: the rows of token sites, counted before the model runs.
"""
