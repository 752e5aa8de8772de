"""What `nodulebook check` looks at before the book is published; a file a question.

Each check returns findings, one line of text each, that name the page and say what is wrong.
"""
