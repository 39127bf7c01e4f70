"""The headline figure of every image that a run measured, which is what paired comparisons are made of."""

from pathlib import Path

import numpy as np

from fgvc.classification.metrics import Predictions
from shards.errors import UserError

PerImage = tuple[np.ndarray, np.ndarray]  # entries, values in 0 to 1: (N,) each; the mean of the values is the headline


def write_headline(folder: Path, split: str, entries: np.ndarray, values: np.ndarray) -> None:
    """Write headline_<split>.npz into a run folder."""
    np.savez_compressed(folder / f"headline_{split}.npz", entries=entries, values=values)


def read_headline(folder: Path, split: str) -> PerImage:
    """What `write_headline` wrote; of older classifier runs, whether each image was named rightly. Raises UserError."""
    file = folder / f"headline_{split}.npz"
    if not file.is_file():
        predictions = Predictions.load(folder / f"predictions_{split}.npz")
        return predictions.entries, predictions.correct.astype(float)
    try:
        with np.load(file, allow_pickle=False) as arrays:
            return arrays["entries"], arrays["values"]
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{file}: not readable ({error}); run the same command under another name=") from None
