"""Fixtures: one thread, a tiny tower, a synthetic Earth."""

from training_fixtures import earths, make_tower, one_thread

__all__ = ["earths", "make_tower", "one_thread"]
