"""Sightread's version: the one place. CITATION.cff and CHANGELOG.md follow it, and a test compares them."""

__version__ = "0.2.0.dev0"
