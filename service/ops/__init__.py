"""Logs and Prometheus metrics, with their middleware. Knows nothing of how pictures are located."""
