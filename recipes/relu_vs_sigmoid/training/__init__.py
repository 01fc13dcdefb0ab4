"""Training the study's networks, many of one shape at once.

`networks`: the kinds of networks, one to train, one trained. `stack`: networks of one shape computed as one, and Adam
over them. `trainer`: their training. `checkpoint`: its state on disk. `jobs`: all trainings of a run.
"""
