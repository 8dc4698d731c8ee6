"""Logs and metrics for operators. It does not know what is logged or counted beyond names."""
