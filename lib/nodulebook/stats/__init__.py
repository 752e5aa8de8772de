"""Metrics, patient bootstrap, paired tests, reader agreement."""
