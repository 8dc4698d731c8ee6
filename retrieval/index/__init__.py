"""The index directory: manifest, shards of FAISS lists, calibration.

`writer` writes it, `reader` opens and searches it. It knows nothing of pictures, probabilities or priors. The format is
described in docs/index-format.md. Start reading at `manifest.py`.
"""
