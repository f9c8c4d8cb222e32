"""Whatever assigns probability to the next token, and how it came to.

Every noun is imported from the file that holds it, in full:
``from nextlens.models.batch import Batch``.
"""
