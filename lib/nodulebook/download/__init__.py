"""Download and unpack public data sets, with checksums."""
