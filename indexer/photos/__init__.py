"""Sets of photos with places: read from tables or folders, checked, split and embedded.

Start at `read.read_photos` and `embed.embed_photos`; `photo_set.PhotoSet` is what they pass on. Nothing here knows of
indexes, searches or training.
"""
