"""Building an index from a tile source: cover, fetch, embed, shard, publish.

Start reading at `build.py`, the road of a tile. The package knows tiles, encoders and the index format. It does not
know photos, calibration or command lines.
"""
