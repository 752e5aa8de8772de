"""Classifiers on features: hand-crafted, of a trained network, of an autoencoder."""
