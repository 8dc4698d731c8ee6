"""Tables and pictures that say how good an index is."""
