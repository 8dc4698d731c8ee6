"""Fetching tiles from a server into a tile store, politely and resumably. Start with `client.fetch`.

`settings` is the input and the report, `feed` chooses tiles and writes answers, `politeness` decides when to ask again.
"""
