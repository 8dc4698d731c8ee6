"""From an embedding to an answer: query, plan, beam search, posterior, places and radii.

It knows open indexes and beliefs, but nothing of pictures or HTTP. The formulas are explained in docs/method.md. Start
reading at `beam.py`; `gpu` holds the same search on tensors.
"""
