"""What an image of each class counts in a loss where classes have unlike numbers of images."""

import numpy as np
import torch


def class_weights(labels: np.ndarray, classes: int, beta: float) -> torch.Tensor | None:
    """(classes,) float32: 1 over the effective number of a class's n images, (1 - beta ** n) / (1 - beta); None for
    beta 0, when all are alike (https://arxiv.org/abs/1901.05555). At beta 1 it is n itself.

    labels: (N,), of the training images. The weights are scaled so that their mean over these images is 1: learning
    rates mean the same as without them. Classes without images get 0.
    """
    if not beta:
        return None
    counts = np.bincount(labels, minlength=classes).astype(float)
    there = counts > 0
    effective = counts[there] if beta == 1 else np.expm1(counts[there] * np.log(beta)) / (beta - 1)
    weights = np.zeros(classes)
    weights[there] = 1 / effective
    return torch.from_numpy(weights * counts.sum() / (weights * counts).sum()).float()


def image_weights(targets: torch.Tensor, weights: torch.Tensor, smoothing: float) -> torch.Tensor:
    """(N,): what each image counts, its classes' weights by their shares in (N, classes) targets. What label smoothing
    spread over all classes is left out: rare ones would draw all images towards them."""
    return (targets @ weights - smoothing * weights.mean()) / (1 - smoothing)
