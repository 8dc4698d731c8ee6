"""The beam search on a device, for batches of queries: an index's levels as tensors, and the posterior in torch.

It gives the same `Descent`s as `retrieval.search.beam`, but knows no regions and no priors: those searches use the
FAISS lists. Start reading at `beam`.
"""
