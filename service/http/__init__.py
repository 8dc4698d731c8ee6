"""The HTTP side: routes, the contract's models, uploads, problem documents, the page and its map tiles.

Start with `routes.py`; `models.py` holds the contract. It does not know how pictures are located.
"""
