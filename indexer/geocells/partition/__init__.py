"""Fit a partition of the Earth to the places of photos. Needs scipy and scikit-learn, not torch; opens no picture.

Start at `fit.py`, which calls the other modules in their order: `grid_search` (`optics`, `assign`), `assign`,
`voronoi`, `tiles`; `write` puts the result on disk.
"""
