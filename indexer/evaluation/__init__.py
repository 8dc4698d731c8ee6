"""How good an index is: its answers on photos of known places, as figures, tables and plots.

Start at `run.evaluate`; `page` and `write` turn its result into text and files. `metrics`, `bootstrap`, `tables` and
`plots` serve calibration and training too. Nothing here fits or changes an index.
"""
