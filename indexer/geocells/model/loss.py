"""The losses of a geocell model: haversine-smoothed cross-entropy and the geographic contrastive loss.

Knows logits, embeddings and kilometres, not photos or partitions. The whole is

    L = H(cells) + H(clusters) + alpha C

with H as in PIGEON (Haas et al. 2023, "PIGEON: Predicting Image Geolocations"): a cell's target is
exp(-(d(g_n, x) - d(g_x, x)) / tau), d the great-circle distance, g_n the cell's centroid, g_x that of the photo's own
cell, x where the photo was taken, tau 75 km; targets are not normalised. (PIGEON's code takes off the least distance of
all: of cells that are the nearest centroid's, that is the own one's.) C is a softmax over a batch whose targets fall
off with distance. Paper G names alpha and a temperature for it, (0.5, 0.5) at best, but what is known of the
paper here does not give its formula; the one below is ours.
"""

import torch
from torch import Tensor
from torch.nn import functional

from retrieval.sphere import EARTH_RADIUS_KM

__all__ = ["contrastive_loss", "haversine_km", "haversine_loss", "smoothed_targets"]


def haversine_km(lat_lng_a: Tensor, lat_lng_b: Tensor) -> Tensor:
    """Great-circle distances between points, (n, 2) and (m, 2) degrees float64, to (n, m) float64 kilometres.

    `retrieval.sphere.great_circle_km` on tensors.
    """
    a, b = torch.deg2rad(lat_lng_a)[:, None], torch.deg2rad(lat_lng_b)[None]
    half = ((b - a) / 2).sin() ** 2
    h = half[..., 0] + a[..., 0].cos() * b[..., 0].cos() * half[..., 1]
    return 2 * EARTH_RADIUS_KM * h.clamp(0, 1).sqrt().asin()


def smoothed_targets(km: Tensor, own: Tensor, smoothing_km: float) -> Tensor:
    """(n, c) distances of photos from centroids and each photo's own place, (n,) int64, to (n, c) targets, own ones 1.

    No target is above 1: a cluster of the next cell may lie nearer than the own one.
    """
    apart = km - km.gather(1, own[:, None])
    return torch.exp(-apart / smoothing_km).clamp(max=1)


def haversine_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean over photos of -sum target log softmax(logit); (n, c) each to a scalar."""
    return -(targets * functional.log_softmax(logits, dim=1)).sum(1).mean()


def contrastive_loss(embeddings: Tensor, km: Tensor, temperature: float, reach_km: float) -> Tensor:
    """Photos taken near each other get near embeddings: (n, e) of any length, (n, n) distances, to a scalar.

    Mean over i of -sum over j != i of q_ij log p_ij; q_ij is proportional to exp(-km_ij / reach_km), p_ij to
    exp(cos_ij / temperature), each over the other photos of the batch.
    """
    unit = functional.normalize(embeddings, dim=1)
    itself = torch.eye(len(unit), dtype=torch.bool, device=unit.device)
    # A finite stand-in for minus infinity: 0 times it is 0, not nan.
    nothing = torch.finfo(unit.dtype).min / 4
    log_p = functional.log_softmax((unit @ unit.t() / temperature).masked_fill(itself, nothing), dim=1)
    q = functional.softmax((-km / reach_km).to(unit.dtype).masked_fill(itself, nothing), dim=1)
    return -(q * log_p).masked_fill(itself, 0).sum(1).mean()
