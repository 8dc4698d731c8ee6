"""Photo sets and tiles of the built-in Earth as files, and pictures that have no answer: what experiments run on."""
