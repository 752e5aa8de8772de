"""Scores for a user's own scans."""
