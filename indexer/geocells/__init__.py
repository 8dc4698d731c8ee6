"""Geocells: divide the Earth into cells by where photos were taken, and train models that name a photo's cell.

`partition/` fits a partition to places alone and opens no picture; `model/` trains a model over an image encoder for a
partition. `settings.py` holds the request of each command. Start reading at `partition/fit.py` and `model/train.py`.
Using a partition or a model needs neither: see `retrieval.priors.partition` and `retrieval.priors.geocells`. The method
is in docs/method.md, section "Geocells".
"""
