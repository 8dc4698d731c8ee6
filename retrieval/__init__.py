"""Where was this picture taken? The part that runs both offline and in the service.

`pipeline` is the way from a picture's bytes to an answer; `locator` is an open index that answers. Packages, from the
bottom up: `geo` (regions), `index` (files and their search), `encoders` (pictures to embeddings), `priors`
(distributions over the Earth), `search` (beam, posterior, answer). This package knows nothing of HTTP or of building an
index. Start reading at `pipeline.py`.
"""
