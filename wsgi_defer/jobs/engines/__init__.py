"""The queue engines, one folder each, and what they have in common.

Which one is used depends on the URL that ``Jobs()`` is given.
"""
