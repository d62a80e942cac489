"""Turnout beside other servers of the same models, in one interleaved run: `make bench`."""
