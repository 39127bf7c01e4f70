"""Labels that a probe, fitted without the image, does not believe: confident learning (https://arxiv.org/abs/1911.00068)."""

from dataclasses import dataclass

import numpy as np
import torch
from scipy.special import softmax

from fgvc.classification.calibration import fit_temperature
from fgvc.classification.probe import fit_probe


@dataclass(frozen=True)
class Doubt:
    """An image, by its row, whose label another class is more probable than, and by how much."""

    row: int
    suggested: int
    margin: float


def out_of_fold(
    features: np.ndarray, mirrored: np.ndarray, labels: np.ndarray, folds: np.ndarray, classes: int, penalty: float
) -> np.ndarray:
    """(N, classes) calibrated probabilities, each image's by a probe that was fitted without its fold.

    features, mirrored: (N, D) of the images and their mirror images. A class that a fold's probe has not seen has 0.
    """
    views = torch.from_numpy(np.stack([features, mirrored]))
    truth = torch.from_numpy(labels)
    logits = np.zeros((len(labels), classes))
    for fold in np.unique(folds):
        kept, held = folds != fold, folds == fold
        inputs = views[:, torch.from_numpy(kept)].flatten(0, 1)
        weight, bias = fit_probe(inputs, truth[torch.from_numpy(kept)].repeat(2), classes, penalty)
        logits[held] = (views[:, torch.from_numpy(held)].mean(0) @ weight.T + bias).numpy()
    return softmax(logits / fit_temperature(logits, labels), axis=1)


def doubtful(probabilities: np.ndarray, labels: np.ndarray, least: float) -> list[Doubt]:
    """Images that count confidently as another class than their label, the surest first.

    As in confident learning an image counts as a class when its probability reaches the mean that the class's own
    images have; the most probable such class is suggested. least: the margin over the label's probability.
    """
    rows = np.arange(len(labels))
    own = probabilities[rows, labels]
    sums = np.bincount(labels, own, minlength=probabilities.shape[1])
    counts = np.bincount(labels, minlength=probabilities.shape[1])
    thresholds = np.where(counts > 0, sums / np.maximum(counts, 1), np.inf)
    confident = np.where(probabilities >= thresholds, probabilities, -1.0)
    suggested = confident.argmax(1)
    margins = confident[rows, suggested] - own
    found = np.flatnonzero((suggested != labels) & (margins >= least) & (margins > 0))
    order = found[np.argsort(-margins[found], kind="stable")]
    return [Doubt(int(row), int(suggested[row]), round(float(margins[row]), 4)) for row in order]
