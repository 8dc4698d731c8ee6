"""The online service: locates pictures over HTTP with an open index.

Start with `http/routes.py` and follow a request: `access` (keys, rates, audit), `engine` (slots, queue, batches),
`retrieval.pipeline`. `app.py` puts the parts together; `client` is for callers and needs httpx only.
It does not know how indexes are built, and fetches nothing.
"""
