"""Numerics that several metrics share.

- `cells`: atoms and bins of the nodes, and the samples of each class in them.
- `class_leads`: how far the distribution function of each class is ahead of that of each other class.
- `class_means`: the class means of a site, and the nearest of them to each sample.
- `class_moments`: the base of metrics that need the mean and the variance of each class.
- `class_pairs`: pairs of classes: which to compare, how many nodes at once, the variables of their distances.
- `class_sums`: counts, sums and minima of each class in a batch.
- `cross_ranks`: the ranks of each class's samples among those of each other class.
- `inactive_counts`: the base of metrics that count how often each node is inactive.
- `node_blocks`: results of blocks of nodes, joined to those of all nodes.
- `pooled_sort`: one sort of the samples of all classes at a node.
- `radix_select`: order statistics of samples that don't fit in memory.
- `row_sampling`: random choices of rows of a store, the same at every site.
- `sample_batches`: the samples of a site as tensors.
- `scatter`: sums of squares and products around the mean that add up over batches.
"""
