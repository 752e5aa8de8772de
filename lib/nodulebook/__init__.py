"""LIDC-IDRI annotations to nodules, patches, networks, saliency maps and statistics.

Packages, from the ground up; each imports only from those before it in this list:

core      errors, files, paths, settings
stats     metrics, bootstrap, paired tests, reader agreement
download  transfer, unpacking, public data sets
data      annotations, contours, cohort, folds
ct        volumes and scan rules
patches   cubes, stores, sources
model     layers, networks, training
explain   Grad-CAM++ and its faithfulness
runs      the files of a run
"""

from nodulebook.core.environment import set_environment

__version__ = "0.2.0"

set_environment()  # before any module of the library imports Keras
