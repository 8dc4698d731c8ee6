"""Concurrency: limits on admitted work, the queue before the encoder, and batches. Start with `inference.py`.

It does not know routes, parameters or keys.
"""
