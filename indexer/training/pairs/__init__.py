"""Map encoders learnt from pairs of a photo and the tile that holds it, as paper H does it."""
