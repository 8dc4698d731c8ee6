"""Calibration: fitting an index's confidences to photos whose places are known, and measuring them on other photos.

`fit` holds the stages in their order; `run` is `tilebeam calibrate` from request to stored result, `report` its report.
The package knows embeddings, indexes and priors. It does not know how pictures are read or encoded. Start reading at
`run`; the formulas are in docs/method.md ("The posterior", "Elsewhere", "Calibration").
"""
