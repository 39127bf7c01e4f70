"""Boxes that look wrong, by their numbers alone."""

from dataclasses import dataclass

import numpy as np

from shards.manifest import Manifest

TINY, WHOLE, THIN = 0.005, 0.98, 8.0  # shares of the image's area; longer side by shorter


@dataclass(frozen=True)
class OddBox:
    """An image, by its place in the manifest, its box, and what is odd about it."""

    index: int
    box: tuple[float, ...]
    why: str


def odd_boxes(manifest: Manifest, indices: np.ndarray) -> list[OddBox]:
    """Boxes that are tiny, take the whole image, reach out of it or are very thin; images without a box among images
    that have some come last, as a box of nothing."""
    entries = manifest.entries
    wanted = np.zeros(len(entries), bool)
    wanted[indices] = True
    owner = np.repeat(np.arange(len(entries)), entries.box_counts)
    boxes = entries.boxes.astype(np.float64)
    wide, high = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    width, height = entries.width[owner].astype(float), entries.height[owner].astype(float)
    share = wide * high / (width * height)
    tests = {
        "reaches out of the image": (boxes[:, :2] < -0.5).any(1)
        | (boxes[:, 2] > width + 0.5)
        | (boxes[:, 3] > height + 0.5),
        "tiny": share < TINY,
        "the whole image": share > WHOLE,
        "very thin": np.maximum(wide / high, high / wide) > THIN,
    }
    found = []
    for why, odd in tests.items():
        for row in np.flatnonzero(odd & wanted[owner]).tolist():
            found.append(OddBox(int(owner[row]), tuple(boxes[row].round(1).tolist()), why))
    bare = np.flatnonzero(wanted & (entries.box_counts == 0)).tolist()
    if wanted[owner].any():
        found += [OddBox(index, (), "no box, where others have one") for index in bare]
    return found


def imbalance(manifest: Manifest, indices: np.ndarray) -> list[tuple[str, int]]:
    """(class, images) of these images, fewest first."""
    counts = np.bincount(manifest.entries.label[indices], minlength=len(manifest.classes)).tolist()
    order = sorted(range(len(counts)), key=lambda label: (counts[label], label))
    return [(manifest.classes[label], counts[label]) for label in order]
