"""Concurrency: limits on admitted work, decoding threads, the queue before the encoder. Start with `inference.py`.

It does not know routes, parameters or keys.
"""
