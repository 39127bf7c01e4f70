"""Why this class and not that one: the parts that speak for either, and the training images that are most alike."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from fgvc.explanation.subject import Subject


@torch.no_grad()
def features(subject: Subject, images: Tensor, batch: int = 32) -> Tensor:
    """(N, D): what the classifier's last layer sees of uint8 images (N, 3, S, S), scaled to length 1."""
    network = subject.network
    parts = [
        network.forward_head(network.forward_features(subject.normalise(part)), pre_logits=True).cpu()  # type: ignore[operator]
        for part in images.split(batch)
    ]
    return functional.normalize(torch.cat(parts), dim=1)


def most_alike(image: Tensor, others: Tensor, count: int) -> list[int]:
    """The places of the `count` rows of others (N, D) whose cosine with image (D,) is largest, the largest first."""
    return (others @ image).argsort(descending=True, stable=True)[:count].tolist()


def part_shares(signed: np.ndarray, masks: dict[str, np.ndarray]) -> dict[str, tuple[float, float]]:
    """name -> (share of what speaks for, share of what speaks against) of a signed (S, S) map that lies on each part;
    `elsewhere` is the rest."""
    both = np.maximum(signed, 0), np.maximum(-signed, 0)
    totals = [max(float(part.sum()), 1e-12) for part in both]
    found = {
        name: (float(both[0][mask].sum()) / totals[0], float(both[1][mask].sum()) / totals[1])
        for name, mask in masks.items()
    }
    rest = [1 - sum(pair[side] for pair in found.values()) for side in (0, 1)]
    return found | {"elsewhere": (max(rest[0], 0.0), max(rest[1], 0.0))}


def closest_calls(logits_gap: np.ndarray, count: int) -> list[int]:
    """The rows with the smallest gaps between the two most probable classes: those that most need a reason."""
    return np.argsort(logits_gap, kind="stable")[:count].tolist()


def named_parts(shares: dict[str, tuple[float, float]], side: int, count: int = 3) -> Sequence[str]:
    """The parts that carry most of one side, as a title names them: crown 41 %."""
    order = sorted(shares, key=lambda name: -shares[name][side])
    return [f"{name} {shares[name][side]:.0%}" for name in order[:count] if shares[name][side] >= 0.05]
