"""The files of a run: schemas, reading and writing."""
