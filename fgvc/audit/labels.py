"""Labels that a probe, fitted without the image, does not believe."""

from dataclasses import dataclass

import numpy as np
import torch
from scipy.special import softmax

from fgvc.classification.calibration import fit_temperature
from fgvc.classification.probe import fit_probe


@dataclass(frozen=True)
class Doubt:
    """An image, by its row, and a class that is `odds` times as probable as its label."""

    row: int
    suggested: int
    odds: float


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
    """Images whose label is not the most probable class, by at least these odds; the largest odds first.

    Odds rather than a difference: of classes that a probe mixes up the label's own remains probable, while a wrong
    label is hardly ever a class that it comes near to.
    """
    rows, suggested = np.arange(len(labels)), probabilities.argmax(1)
    odds = probabilities[rows, suggested] / np.maximum(probabilities[rows, labels], 1e-9)
    found = np.flatnonzero((suggested != labels) & (odds >= least))
    order = found[np.argsort(-odds[found], kind="stable")]
    return [Doubt(int(row), int(suggested[row]), round(float(odds[row]), 1)) for row in order]
