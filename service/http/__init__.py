"""The HTTP side: routes, the contract's models, uploads, batches, problem documents, the page and its map.

Start with `routes.py`; `models.py` holds the contract. It does not know how pictures are located.
"""
