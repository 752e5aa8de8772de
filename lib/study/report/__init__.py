"""Tables of the book, computed from the committed runs."""
