"""Pictures and tiles to embeddings: decoding, preprocessing, models, CPU threads and devices.

`base` has the protocols that other packages use, and `photo` decodes untrusted bytes. It knows nothing of indexes or
HTTP. Start reading at `base.py`.
"""
