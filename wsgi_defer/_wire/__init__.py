"""A client that sees more of HTTP than others: the last byte apart from the end."""
