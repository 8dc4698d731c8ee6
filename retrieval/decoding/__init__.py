"""Pictures whose decoding is large or risky, decoded in a process that can be ended; the others in the caller's thread.

Start at `decoder.PictureDecoder`. `process` holds the child, `worker` is what runs in it, `frames` is what they say to
each other. What a decoder of the operating system's libraries prints in the child goes nowhere. Knows nothing of
queries, encoders or HTTP.
"""
