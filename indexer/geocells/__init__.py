"""Geocells: the Earth parted by where photos were taken, and models that name the part that a photo shows."""
