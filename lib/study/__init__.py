"""This replication: its experiments, tables and figures, built on `nodulebook`."""
