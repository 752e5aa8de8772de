"""Publishing kit; it knows no study.

tracing  numbers with their sources, numbered tables, and `verify`, which builds the book again
ledger   the paper's claims, tables and figures, with our verdict or counterpart
sphinx   extensions: links to sources, captions with code, notebooks, parallel reading
checks   what `nodulebook check` looks at: prose, spelling, links, pages in a browser
cli      the commands of all these
"""
