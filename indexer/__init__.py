"""The offline part of Tilebeam: build an index, train encoders, calibrate, and evaluate. It does not serve requests.

Start reading at `build/build.py` for an index and at `training/run.py` for map encoders. The commands are in `cli/`.
"""
