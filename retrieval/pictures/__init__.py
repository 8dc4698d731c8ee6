"""Untrusted bytes to upright 8-bit RGB pixels, within limits of memory and time that are known before decoding."""
