"""What users hand in: data of many kinds become one stream of batches with columns.

- ``loaders``: slices of arrays, loaders over data sets, iterables as they are.
- ``fields``: where labels, ids, columns and inputs are in an item of the data.
- ``columns``: one value a sample: labels, ids and the like.
- ``classes``: the codes and the names of labels.
- ``inputs``: what the model gets of a batch, and how many samples that is.
- ``batches``: the stream itself.
- ``prompts``: prompts of a language model, padded on the left.
- ``sampler``: `probekit.ChunkSampler`, for several processes.
"""
