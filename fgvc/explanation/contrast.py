"""Why this class and not that one: the parts that speak for either, and the training images that are most alike."""

from collections.abc import Sequence

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from fgvc.explanation.subject import Subject

REST, BACKGROUND = "rest of the bird", "background"
LEAST = 0.05  # of a map's largest value: less is not named


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


def part_strengths(
    signed: np.ndarray, parts: dict[str, np.ndarray], bird: np.ndarray, around: int
) -> dict[str, tuple[float, float]]:
    """name -> how strongly a signed (S, S) map speaks for, and against, on each part, on the rest of the bird and on
    the background: the mean there, as a share of the map's largest value of either sign.

    parts, bird: (S, S) bool, of which the mean is taken with `around` pixels about each: a cell of the map is larger
    than a beak, and its spot lies beside the beak as often as on it. Means, since by sums the background, of which
    there is most, would be the evidence for everything.
    """
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * around + 1,) * 2)
    wide = {name: cv2.dilate(mask.astype(np.uint8), kernel) > 0 for name, mask in parts.items()}
    covered = np.any(list(wide.values()), axis=0) if wide else np.zeros_like(bird)
    whole = cv2.dilate(bird.astype(np.uint8), kernel) > 0
    wide |= {REST: bird & ~covered, BACKGROUND: ~(whole | covered)}
    both = np.maximum(signed, 0), np.maximum(-signed, 0)
    largest = max(float(np.abs(signed).max()), 1e-12)
    return {
        name: (float(both[0][mask].mean()) / largest, float(both[1][mask].mean()) / largest)
        for name, mask in wide.items()
        if mask.any()
    }


def closest_calls(logits_gap: np.ndarray, count: int) -> list[int]:
    """The rows with the smallest gaps between the two most probable classes: those that most need a reason."""
    return np.argsort(logits_gap, kind="stable")[:count].tolist()


def named_parts(strengths: dict[str, tuple[float, float]], side: int, count: int = 3) -> Sequence[str]:
    """The parts on which one side is strongest, as a title names them: crown 41 %."""
    order = sorted(strengths, key=lambda name: -strengths[name][side])
    return [f"{name} {strengths[name][side]:.0%}" for name in order[:count] if strengths[name][side] >= LEAST]
