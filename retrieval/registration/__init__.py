"""Where exactly a picture from above lies: geometric registration against a reference, without weights or training.

Orientation fields of the picture are correlated with those of the reference around candidate places. Start reading at
`registration.py`; `fields` holds the idea, `reference` and `tiles` what pictures are compared with. It knows no
encoders, indexes and HTTP.
"""
