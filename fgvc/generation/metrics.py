"""How close generated images are to real ones, by features (N, D) of both: Frechet distance, KID, precision, recall."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch.nn import functional
from torch_fidelity.metric_kid import KEY_METRIC_KID_MEAN, kid_features_to_metric
from torch_fidelity.metric_prc import KEY_METRIC_PRECISION, KEY_METRIC_RECALL, prc_features_to_metric

from shards.errors import UserError

NEIGHBOURS = 3  # of precision and recall, as published
KID_SUBSETS, KID_SUBSET = 100, 1000
COPY = 0.5  # ratio below which an image is a copy
AROUND = 50  # neighbours that a nearest one is compared with
DISTANCES = 1 << 26  # held at a time


@dataclass(frozen=True)
class Gaussian:
    """Mean (D,) and covariance (D, D), fp64."""

    mean: np.ndarray
    covariance: np.ndarray

    @staticmethod
    def of(features: np.ndarray) -> "Gaussian":
        """Raises UserError for fewer than two samples."""
        if len(features) < 2:
            raise UserError(
                f"{len(features)} image(s): a Frechet distance needs at least 2, and means little below 1,000"
            )
        features = features.astype(np.float64)
        return Gaussian(features.mean(0), np.cov(features, rowvar=False).reshape(features.shape[1], -1))


def frechet_distance(one: Gaussian, other: Gaussian) -> float:
    """|m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2)), of Inception's features the FID (Heusel et al., 2017,
    https://arxiv.org/abs/1706.08500).

    The last trace is the sum of the roots of the eigenvalues of C1^(1/2) C2 C1^(1/2), which is symmetric: no root of
    a matrix has to be approximated, and fewer images than features do no harm.
    """
    values, vectors = np.linalg.eigh(one.covariance)
    root = (vectors * np.sqrt(np.clip(values, 0, None))) @ vectors.T
    between = np.linalg.eigvalsh(root @ other.covariance @ root)
    cross = np.sqrt(np.clip(between, 0, None)).sum()
    apart = one.mean - other.mean
    return float(apart @ apart + np.trace(one.covariance) + np.trace(other.covariance) - 2 * cross)


def check_count(images: int, split: str = "") -> None:
    """Raise UserError for too few images to compare."""
    if images <= NEIGHBOURS:
        raise UserError(
            f"{images} image(s){f' of split {split}' if split else ''} to compare with: precision and recall need more "
            f"than {NEIGHBOURS}; raise measure.images, or give more images"
        )


def compare(generated: np.ndarray, real: np.ndarray) -> dict[str, float]:
    """frechet; kid (unbiased, of subsets; Binkowski et al., 2018); precision and recall (Kynkaanniemi et al., 2019).

    Raises UserError for too few images.
    """
    fewest = min(len(generated), len(real))
    check_count(fewest)
    ours, theirs = (torch.from_numpy(np.ascontiguousarray(one, np.float32)) for one in (generated, real))
    subset = min(KID_SUBSET, fewest)
    kid = kid_features_to_metric(
        ours, theirs, kid_subsets=KID_SUBSETS if subset < fewest else 1, kid_subset_size=subset, verbose=False,
        rng_seed=2020,
    )  # fmt: skip
    within = prc_features_to_metric(
        ours, theirs, prc_neighborhood=NEIGHBOURS, prc_batch_size=10_000, save_cpu_ram=False, verbose=False
    )
    return {
        "frechet": frechet_distance(Gaussian.of(generated), Gaussian.of(real)), "kid": kid[KEY_METRIC_KID_MEAN],
        "precision": within[KEY_METRIC_PRECISION], "recall": within[KEY_METRIC_RECALL],
    }  # fmt: skip


def halves(generated: np.ndarray, real: np.ndarray, seed: int = 0) -> dict[str, float]:
    """floor: the Frechet distance between two halves of N real images. frechet_half: that of N / 2 of N generated
    images to N / 2 real ones, the mean of two.

    Estimates from few images lie too high, the more so the fewer (Chong & Forsyth, 2020,
    https://arxiv.org/abs/1911.07023): the distance of all images may lie below the floor, that of halves compares with
    it. The floor is not taken to N along a line in 1 / N: with fewer images than features (400 of the field guide at
    1,280) that lay 19 % too high.
    """
    order = np.random.default_rng(seed).permutation(min(len(generated), len(real)))
    ours, theirs = ([Gaussian.of(rows[order[start::2]]) for start in (0, 1)] for rows in (generated, real))
    crossed = [frechet_distance(ours[0], theirs[1]), frechet_distance(ours[1], theirs[0])]
    return {"frechet_half": float(np.mean(crossed)), "floor": frechet_distance(*theirs)}


@dataclass(frozen=True)
class Nearest:
    """Of every image, (N,) each. index: row of the training image that is nearest. ratio: its distance by the mean
    distance of the `AROUND` nearest: near 0 for a copy, near 1 for an image that is like many (a blurred one, say)."""

    index: np.ndarray
    ratio: np.ndarray


def nearest(features: np.ndarray, training: np.ndarray, rows: int, *, leave_out_self: bool = False) -> Nearest:
    """Euclidean, of features (N, D) among those of `rows` training images.

    training: (K rows, D), every image several times: all as they are, then all of their mirror images, say; the nearest
    of an image's counts. leave_out_self: feature i is of training image i, another one is meant.
    """
    known = torch.from_numpy(training).float()
    parts = torch.from_numpy(features).float().split(max(1, DISTANCES // len(known)))
    firsts = np.cumsum([0, *map(len, parts)])
    found = [
        _nearest(part, known, rows, int(first) if leave_out_self else None)
        for part, first in zip(parts, firsts, strict=False)
    ]
    return Nearest(np.concatenate([one.index for one in found]), np.concatenate([one.ratio for one in found]))


def _nearest(features: torch.Tensor, training: torch.Tensor, rows: int, own: int | None) -> Nearest:
    """own: of which training image the first of the features is, and so on; None when they are of none."""
    distances = torch.cdist(features, training)
    closest, version = distances.view(len(features), -1, rows).min(1)
    leave_out_self = own is not None
    if own is not None:
        at = torch.arange(len(features))
        closest[at, own + at] = torch.inf
    count = min(AROUND, rows - leave_out_self)
    found = closest.topk(count, largest=False)
    index = found.indices[:, 0]
    ratio = found.values[:, 0] / found.values.mean(1).clamp_min(1e-12)
    return Nearest((version.gather(1, index[:, None])[:, 0] * rows + index).numpy(), ratio.numpy())


class Described(NamedTuple):
    """Images as they are compared, a row each: by a network's features (N, D), and by their own pixels (N, E)."""

    features: np.ndarray
    thumbnails: np.ndarray


def thumbnails(images: torch.Tensor) -> torch.Tensor:
    """(N, 3, H, W) uint8 -> (N, 768): 16 x 16 pixels, of mean 0 and length 1, so that light and contrast do not count;
    an image of one colour is all 0."""
    small = functional.interpolate(images.float() / 255, (16, 16), mode="bilinear", antialias=True)
    small = (small - small.mean((2, 3), keepdim=True)).flatten(1)
    return small / small.norm(dim=1, keepdim=True).clamp_min(1e-3)


def memorised(images: Described, training: Described, rows: int, *, leave_out_self: bool = False) -> np.ndarray:
    """(N,) bool: which are copies of training images: nearer to one than half of what its neighbours are, by features
    or by pixels (after Carlini et al., 2023, https://arxiv.org/abs/2301.13188, section 4.2). An absolute distance would
    take blurred images, which are near to all, for copies; features alone miss copies that were shrunk. Arguments as
    of `nearest`."""
    pairs = [(_unit(ours), _unit(theirs)) for ours, theirs in zip(images, training, strict=True)]
    found = [nearest(*pair, rows, leave_out_self=leave_out_self) for pair in pairs]
    return (found[0].ratio < COPY) | (found[1].ratio < COPY)


def _unit(rows: np.ndarray) -> np.ndarray:
    """At length 1: an image with little in it has short features, to which those of a grey one would be near."""
    return rows / np.clip(np.linalg.norm(rows, axis=1, keepdims=True), 1e-6, None)
