"""Nulls and intervals: a measurement repeated with other labels, or on other draws of the samples.

- ``settings``: what was asked for.
- ``units``: what is shuffled and drawn: samples, or groups of rows that belong together.
- ``draws``: the labels, weights and blocks of each repeat.
- ``tally``: what is kept of the repeats, and what follows from it.
- ``intervals``: where an interval ends, and why there is none.
- ``site_numbers``: the one number of a site in each repeat.
- ``evaluation``: metrics on the repeats of the samples of a task.
- ``repeats``: which metrics are repeated how often, and the sums that a task gives.
- ``planning``: the tasks that repeat what, within the memory.
- ``results``: the variables of nulls and intervals among those of a site.
- ``sketched``: the null of a metric that asks for one itself, as a model runs.
- ``balance``: as many samples of every class.
"""
