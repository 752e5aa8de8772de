"""Errors, files, folders and settings: what everything else uses."""
