"""Helpers of the book: LIDC-IDRI annotations to nodules, patches, a network, maps and numbers.

The files form layers; each imports only from layers above it in this list:

ground   errors, paths, files, settings
data     annotations, cohort, folds, contours, patches, sources, download, unpack, datasets
model    augment, layers, network, training
explain  gradcam
judge    artefacts, metrics, statistics, baseline
show     tables, figures, runs, trials, report, cli
"""

__version__ = "0.1.0"
