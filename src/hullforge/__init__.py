"""Databases of density-functional-theory calculations of crystals, in rounds, as reproducible releases."""

__version__ = "0.1.0"
