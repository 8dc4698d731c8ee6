"""Fixtures: one thread, a tiny tower, a small world of tiles and photos."""

from small_world import world
from training_fixtures import make_tower, one_thread

__all__ = ["make_tower", "one_thread", "world"]
