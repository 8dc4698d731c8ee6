"""The HTTP client: `Client` and `AsyncClient` in `client.py`. Imports httpx, and nothing of the engine."""
