"""A model run over batches with a probe on it.

- ``options``: which sites, and how the model runs.
- ``dry_run``: what the model gives for the first samples.
- ``masks``: which of the inputs tells real tokens from padding.
- ``owners``: sites whose rows aren't samples: to which sample each row belongs.
- ``batch_axis``: which axis of a site's activation is the batch.
- ``site_plan``: what is recorded of each site, planned from the dry run.
- ``parts_of_tokens``: sites that have rows neither for samples nor for tokens.
- ``storable``: whether a store can keep what a site gives.
- ``forward_pass``: one pass over a batch, and a backward pass for gradients.
- ``early_stop``: whether a pass may be left once all sites have been seen.
- ``recorder``: each activation reduced, cast and handed on at the moment it is made.
- ``generation_pass``: the many passes of a generation, as one activation a site.
- ``generated``: the tokens of a generation, and which of them have activations.
- ``outputs``: a model's logits and predictions.
"""
