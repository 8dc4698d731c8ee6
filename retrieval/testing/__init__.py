"""Fakes for tests, benchmarks and experiments: encoders and indexes that need no weights, no torch and no network."""
