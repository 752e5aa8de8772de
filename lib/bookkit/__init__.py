"""Publishing kit: traced numbers, the claims ledger, Sphinx extensions, page checks."""
