"""The pictures that every extractor is tried with."""

from tests.pipeline.conftest import pictures

__all__ = ["pictures"]
