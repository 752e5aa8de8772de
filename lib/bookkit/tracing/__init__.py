"""Each printed number leads to its source, and can be computed again."""
