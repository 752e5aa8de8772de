"""The reader study's page and its answers."""
