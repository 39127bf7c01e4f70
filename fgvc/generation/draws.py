"""Random numbers of a GAN as functions of the sample: the same for any number of ranks and after any kill."""

from collections.abc import Iterable

import numpy as np
import torch
from scipy.special import ndtr, ndtri

Key = tuple[int, ...]


def normals(seed: int, keys: Iterable[Key], width: int, truncation: float = 0.0) -> torch.Tensor:
    """(keys, width) fp32, normal, each row a function of (seed, key).

    truncation: no number farther from 0 than this (0: no limit), as BigGAN truncates its latents.
    """
    uniform = _uniforms(seed, keys, width)
    low = ndtr(-truncation) if truncation else 0.0
    inside = low + (1 - 2 * low) * np.clip(uniform, 1e-9, 1 - 1e-9)
    return torch.from_numpy(ndtri(inside)).float()


def uniforms(seed: int, keys: Iterable[Key], width: int) -> torch.Tensor:
    """(keys, width) fp64 in [0, 1), each row a function of (seed, key)."""
    return torch.from_numpy(_uniforms(seed, keys, width))


def _uniforms(seed: int, keys: Iterable[Key], width: int) -> np.ndarray:
    rows = [np.random.default_rng([seed, *key]).random(width) for key in keys]
    return np.stack(rows) if rows else np.zeros((0, width))
