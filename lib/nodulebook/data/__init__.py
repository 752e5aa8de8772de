"""Readers' annotations, contours, the cohort of labelled nodules, and its folds."""
