"""The command line: `nodulebook COMMAND`, or `python -m nodulebook COMMAND`."""
