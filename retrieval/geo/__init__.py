"""Regions in degrees: GeoJSON to polygons (`polygons`), and polygons compared with tiles and points (`region.Region`).

Knows nothing of indexes and pictures. Distances and unit vectors are in `retrieval.sphere`, tiles in
`tile_cache.addressing`.
"""
