"""Reading a model: names of sites, selectors, hooks, and what is kept of an activation.

- ``site_name``: the parts of a site's name.
- ``selectors``: which sites a glob, a regex, a module type or a rule picks.
- ``module_hook``: a hook that belongs to one module, and to no copy of it.
- ``calls``: which forward pass is under way, and the number of each call in it.
- ``operations``: functional operations (not modules), named by the module that called them.
- ``gradients``: what a module gives, made to carry gradients; the gradients that a backward pass may bring.
- ``kept_pass``: what a probe has of one forward pass.
- ``tensor_kinds``: tensors that don't hold the values of a batch in order.
- ``sharded``: models that several processes run together; DTensors gathered, and parts that look like whole tensors.
- ``early_stop``: a forward pass that is left once it has given all that is wanted of it.
- ``compilation``: compiled models run eagerly for a while.
- ``hooks``: `probekit.Probe`.
- ``offloaded``: weights that accelerate loads into a module when it runs.
- ``model_run``: one run of a model on a batch, which leaves the model as it was.
- ``model_state``: the flags, buffers and attributes of a model, kept and put back.
- ``node_axes``: the axis of an activation that counts the nodes, followed through the operations that made it.
- ``folding``: sites whose axis 0 is sample × position.
- ``site_tree``: sites in HTML, as a tree that folds.
- ``site_table``: `probekit.sites`, the dry run that lists every site.
- ``reductions``: what is kept of one activation; `probekit.Projection`.
- ``pooling``: the reductions that have a name: mean, max, flatten, cls, last, tokens; with masks of real tokens.
"""
