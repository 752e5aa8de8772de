"""`python -m nodulebook` is the command line."""

from nodulebook.cli.main import main

main()
