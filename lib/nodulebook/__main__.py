"""`python -m nodulebook` is the command line."""

from nodulebook.cli import main

main()
