"""Numerics that several metrics share.

- `cell_bounds`: how far counts in cells may be off where samples come from a sketch.
- `cells`: atoms and bins of the nodes, and the samples of each class in them.
- `chance`: what statistics are on average where activation and class are independent.
- `class_leads`: how far the distribution function of each class is ahead of that of each other class.
- `class_means`: the class means of a site, and whether each sample is nearest to that of its own class.
- `class_moments`: the base of metrics that need the mean and the variance of each class.
- `class_pairs`: pairs of classes: which to compare, how many nodes at once, the variables of their distances.
- `class_sums`: counts, sums and minima of each class in a batch.
- `covariance`: the base of metrics of a site's covariance, and its spread by pairs of nodes or of samples.
- `cross_ranks`: the ranks of each class's samples among those of each other class.
- `cross_scatters`: the base of metrics of the covariances between sites.
- `dissimilarities`: how far apart the classes of a site are, with and without the noise of their means.
- `hsic`: unbiased squared covariances of two sites, and their alignment.
- `inactive_counts`: the base of metrics that count how often each node is inactive.
- `linear_classifiers`: logistic regression, discriminant analysis and ridge, trained on rows in batches.
- `node_blocks`: results of blocks of nodes, joined to those of all nodes.
- `pooled_sort`: one sort of the samples of all classes at a node.
- `radix_select`: order statistics of samples that don't fit in memory.
- `relabelled_sums`: sums over the samples of each class for many labellings at once.
- `relabelling`: what a node's samples are prepared for, so that metrics are soon known for many labels of them.
- `row_sampling`: random choices of rows of a store, the same at every site.
- `rounding`: what rounding leaves of equal numbers.
- `sample_batches`: the samples of a site as tensors.
- `sample_kernels`: products of the kernels of several sites, in tiles and in batches of samples.
- `scatter`: sums of squares and products around the mean that add up over batches.
- `splits`: training and held-out rows, by unit and class; means of groups and their errors.
- `sums`: the base of metrics whose states are sums over the samples.
"""
