"""Where the console script of an older installation looks for the command line."""

from nodulebook.cli.main import main as main
