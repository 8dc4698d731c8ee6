"""Priors: probabilities over the Earth for one picture, before any tile is compared.

`base` defines what a prior is, `registry` opens one from its directory. `grid` and `partition` turn cells and tiles
into probabilities; `density`, `geoclip` and `geocells` are the kinds. The package knows no index, no search and no
answers: `retrieval.search` weighs a prior's beliefs against the tiles. Start reading at `base`.
"""
