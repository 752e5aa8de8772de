"""`python -m nodulebook` is the command line."""

from study.cli.main import main

main()
