"""Streaming rows into a store.

- ``transfer``: copies of activations to where chunks are filled, from a CPU or a GPU.
- ``chunk_file``: a chunk that goes to its file row by row.
- ``chunk_buffers``: the row buffers of each row dimension, and how many of their rows are filled.
- ``writer``: batches fill row buffers.
- ``commit_thread``: the thread that writes chunk rows and commits them, and the error of a disk that is full.
- ``commits``: how written rows are committed: a growing prefix; ``site_commits``: sites added to a complete store;
  ``rank_commits``: chunk rows of several processes.
- ``unwritten``: what stands for the writer in a process that only runs the model along.
"""
