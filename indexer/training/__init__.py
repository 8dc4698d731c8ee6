"""Training of map encoders from photos with places and a tile source: `tilebeam train --photos`.

`run` reads top to bottom: pairs of photos and tiles (`pairs`, `tiles`), one task per zoom (`zoom`, `loss`) in the loop
of `indexer.learning`, and the encoders that come out (`output`). It does not know how the built-in model was made; that
is `indexer.builtin`.
"""
