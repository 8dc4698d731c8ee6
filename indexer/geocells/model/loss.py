"""The losses of a geocell model: haversine-smoothed cross-entropy and the geographic contrastive loss.

Knows logits, embeddings and kilometres, not photos or partitions. The total loss is

    L = H(cells) + H(clusters) + alpha C

H is PIGEON's (Haas et al. 2023, "PIGEON: Predicting Image Geolocations"): the target of cell n is
exp(-(d(g_n, x) - d(g_x, x)) / tau), where d is the great-circle distance, g_n the centroid of cell n, g_x that of the
photo's own cell, x where the photo was taken, and tau 75 km; targets are not normalised. PIGEON's code subtracts the
smallest of all distances, which for cells is the distance to the own one. C is a softmax over a batch whose targets
fall with distance. The geoembeddings paper gives alpha and a temperature for it, (0.5, 0.5) at best, but its formula
is not known to us; the one in `contrastive_loss` was chosen here. See docs/method.md, section "Geocells".
"""

import torch
from torch import Tensor
from torch.nn import functional

from retrieval.sphere import EARTH_RADIUS_KM

__all__ = ["contrastive_loss", "haversine_km", "haversine_loss", "smoothed_targets"]


def haversine_km(lat_lng_a: Tensor, lat_lng_b: Tensor) -> Tensor:
    """Great-circle distances of all pairs of points, (n, 2) and (m, 2) degrees float64, to (n, m) float64 km.

    `retrieval.sphere.great_circle_km` for tensors: it runs on their device.
    """
    a, b = torch.deg2rad(lat_lng_a)[:, None], torch.deg2rad(lat_lng_b)[None]
    half = ((b - a) / 2).sin() ** 2
    h = half[..., 0] + a[..., 0].cos() * b[..., 0].cos() * half[..., 1]
    return 2 * EARTH_RADIUS_KM * h.clamp(0, 1).sqrt().asin()


def smoothed_targets(km: Tensor, own: Tensor, smoothing_km: float) -> Tensor:
    """Targets, (n, c), for distances of photos to centroids, (n, c), and each photo's own row, (n,) int64.

    The own target is 1. The others are at most 1: the centre of a cluster in the next cell may be nearer than the own.
    """
    farther = km - km.gather(1, own[:, None])
    return torch.exp(-farther / smoothing_km).clamp(max=1)


def haversine_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """The mean over photos of -sum(target * log softmax(logit)); both are (n, c), the result is a scalar."""
    return -(targets * functional.log_softmax(logits, dim=1)).sum(1).mean()


def contrastive_loss(embeddings: Tensor, km: Tensor, temperature: float, reach_km: float) -> Tensor:
    """Pull embeddings of photos that were taken near each other together; the result is a scalar.

    `embeddings`: (n, e) of any length; `km`: (n, n) distances. The loss is the mean over i of the sum over j != i of
    -q_ij log p_ij. q_ij is proportional to exp(-km_ij / reach_km), p_ij to exp(cos_ij / temperature); both are
    normalised over the other photos of the batch.
    """
    unit = functional.normalize(embeddings, dim=1)
    diagonal = torch.eye(len(unit), dtype=torch.bool, device=unit.device)
    # A finite stand-in for minus infinity: 0 times it is 0, not nan.
    lowest = torch.finfo(unit.dtype).min / 4
    log_p = functional.log_softmax((unit @ unit.t() / temperature).masked_fill(diagonal, lowest), dim=1)
    q = functional.softmax((-km / reach_km).to(unit.dtype).masked_fill(diagonal, lowest), dim=1)
    return -(q * log_p).masked_fill(diagonal, 0).sum(1).mean()
