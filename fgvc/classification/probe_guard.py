"""Whether fine-tuning still beats the probe that it began with, on the same held-out images."""

import io
from pathlib import Path

import numpy as np
from scipy.special import bdtr  # scipy.stats takes a second to import

from fgvc.classification.metrics import Predictions
from fgvc.runtime.distributed import broadcast_object, rank
from fgvc.training.guard import OVER_PROBE, OVER_PROBE_P
from shards.files import write_bytes

FILE = "probe_held_out.npz"  # in a run's folder


def mcnemar(ours: np.ndarray, theirs: np.ndarray) -> float:
    """The exact two-sided p-value of McNemar's test (1947): whether two classifiers are right on equally many of the
    same images. ours, theirs: (N,) bool, where each is right."""
    gained, lost = int((ours & ~theirs).sum()), int((theirs & ~ours).sum())
    return min(1.0, 2 * float(bdtr(min(gained, lost), gained + lost, 0.5)))


def keep_probe(folder: Path, predictions: Predictions) -> None:
    """Keep which held-out images a probe got right, for the whole of a run. Rank 0 writes."""
    if rank() == 0:
        data = io.BytesIO()
        np.savez(data, entries=predictions.entries, correct=predictions.correct)
        write_bytes(folder / FILE, data.getvalue())


def against_probe(folder: Path, predictions: Predictions) -> dict[str, float]:
    """Top-1 over that of the probe kept in a run's folder, and McNemar's p; empty where none is kept. All ranks call
    it."""
    found = None
    if rank() == 0 and (folder / FILE).is_file():
        with np.load(folder / FILE, allow_pickle=False) as file:
            found = file["entries"], file["correct"]
    found = broadcast_object(found)
    if found is None or not np.array_equal(found[0], predictions.entries):
        return {}
    over = float(predictions.correct.mean() - found[1].mean())
    return {OVER_PROBE: over, OVER_PROBE_P: mcnemar(predictions.correct, found[1])}
