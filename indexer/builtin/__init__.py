"""The built-in model of the Earth from above: its weights, samples and recipe, and the code that made them.

`train` reads top to bottom: pictures from whole-Earth products (`views`, `styles`), the photo tower (`photo_stage`), a
map tower per zoom (`map_stage`), then calibration on an index (`finish`). The code runs for `tilebeam train --preset
builtin`; users' own encoders are trained by `indexer.training`.
"""
