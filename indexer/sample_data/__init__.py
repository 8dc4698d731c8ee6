"""Sample data drawn from the built-in Earth: geotagged photos, tiles as files, and pictures that have no answer.

The command `tilebeam sample-data` writes them. Start with `photos.write_photos`, `tiles.write_tiles` and
`elsewhere.write_elsewhere`. Nothing here knows indexes, or reads the network.
"""
