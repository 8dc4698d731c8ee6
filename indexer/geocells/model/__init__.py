"""Train models that name a photo's geocell, and the regression baseline without cells. Needs torch.

Start at `train.py`. `retrieval.priors.geocells` reads and uses a trained model; it does not need this package.
"""
