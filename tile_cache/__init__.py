"""Map tiles as bytes: addresses, sources, the cache on disk, and fetching from tile servers.

Knows nothing of models, indexes or pictures to locate. Start with `open.open_source` and the protocols in `source`;
`fetch.client.fetch` fills a `mbtiles.TileStore` from a server.
"""
