"""Comparison with others: their works, their networks rebuilt, readers, and the paper's numbers."""
