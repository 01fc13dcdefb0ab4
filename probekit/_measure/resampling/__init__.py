"""Nulls and intervals: a measurement repeated with other labels, or on other draws of the samples.

- ``settings``: what was asked for.
- ``units``: what is shuffled and drawn: samples, or groups of rows that belong together.
- ``draws``: the labels, weights and blocks of each repeat.
- ``tally``: what is kept of the repeats, and what follows from it.
- ``evaluation``: metrics on the repeats of the samples of a task.
- ``tasks``: which tasks repeat what, and what they give.
- ``results``: the variables of nulls and intervals among those of a site.
- ``sketched``: the null of a metric that asks for one itself, as a model runs.
- ``balance``: as many samples of every class.
"""
