"""Measuring a store, a model as it runs, or a training.

- ``metric_set``: the metrics of a measurement, from names and objects.
- ``catalogue``: what the installed metrics are.
- ``site_source``: the activation of a site as observations of nodes.
- ``grouping``: which observations are selected, and the group of each; ``observed``: those of them that are measured;
  ``site_rows``: as metrics are given them.
- ``tasks``: what a task reads and gives; ``planner``: cutting a measurement into tasks that fit in memory;
  ``plans``: with those that repeat them.
- ``needs``: the memory that metrics need beside their samples; ``room``: whether it fits; ``live_memory``: that of all
  states of a running model.
- ``executors``: running tasks on threads or a cluster; ``crew``: the threads; ``task_cache``: the results of finished
  tasks, on disk.
- ``steps``: what progress counts; ``durations``: how long metrics take, about.
- ``accumulator``: the states of streaming metrics over batches.
- ``from_sketch``, ``gathered``: a running model's column metrics, and observations that wait for an update.
- ``default_metrics``: the metrics that fit a store; ``targets``: the numbers of a continuous column.
- ``units``: which rows belong together.
- ``measure``: `probekit.measure`; ``live``: `probekit.measure_live`; ``watch``: `probekit.Watch`.
- ``top``: `probekit.top`; ``top_samples``: the samples to which nodes answer most.
"""
