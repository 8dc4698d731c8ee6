"""Priors: what else says where a picture was taken, as a probability over the Earth for each picture."""
