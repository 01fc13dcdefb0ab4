"""Several stores side by side, on the samples that they have in common.

- `members`: the stores that are compared, by name, and their samples joined by id
- `differences`: headlines of metrics, their differences, and how uncertain these are
- `between`: how alike sites of different stores are, and their nodes
- `notes`: what isn't comparable, and how things were computed
- `comparison`: the result, its figures and its page
- `compare`: all of that in one call
"""
