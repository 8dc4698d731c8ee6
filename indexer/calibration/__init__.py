"""Confidence: fitted to pictures whose places are known, and shown to be true on others."""
