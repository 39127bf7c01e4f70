"""How sure a classifier may be: the temperature its logits are divided by, fitted on images it was not trained on.

Temperature scaling: https://arxiv.org/abs/1706.04599. It changes no answer, only the confidence.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from scipy.special import log_softmax

from fgvc.classification.config import TrainConfig
from fgvc.classification.metrics import Predictions
from fgvc.runtime.run_folder import RESULT
from shards.errors import UserError
from shards.manifest import Manifest
from shards.paths import expand
from shards.reading.order import folds_of

FOLDS = 5
BOUNDS = (0.02, 50.0)  # where every answer is right, the best temperature would be 0
PREDICTIONS = "predictions_val.npz"


def fit_temperature(logits: np.ndarray, labels: np.ndarray) -> float:
    """The temperature that minimises the negative log-likelihood of (N,) labels under (N, classes) logits."""
    from scipy.optimize import minimize_scalar  # a tenth of a command's start, and few fit a temperature

    exact, rows = logits.astype(float), np.arange(len(labels))

    def loss(log_temperature: float) -> float:
        return -float(log_softmax(exact / np.exp(log_temperature), axis=1)[rows, labels].mean())

    found = minimize_scalar(loss, bounds=tuple(np.log(BOUNDS)), method="bounded", options={"xatol": 1e-6})
    return float(np.exp(found.x))


def calibration_folds(manifest: Manifest, indices: list[int]) -> np.ndarray | None:
    """The fold of every index, (N,); as many folds, up to `FOLDS`, as the smallest class allows (None: not even 2)."""
    for folds in range(FOLDS, 1, -1):
        try:
            return folds_of(manifest, indices, folds)
        except UserError:  # a class has too few different images
            continue
    return None


def held_out_answers(run: str) -> Path:
    """The predictions of a finished run on its held-out fold. Raises UserError for a folder that holds none."""
    folder = expand(run, "train.temperature_from")
    if not (folder / RESULT).is_file():
        raise UserError(f"train.temperature_from={run}: no finished run there; give the folder that holds its {RESULT}")
    if not (folder / PREDICTIONS).is_file():
        raise UserError(
            f"train.temperature_from={run}: measured no held-out fold; make that run with data.folds=5 data.fold=0"
        )
    return folder / PREDICTIONS


def temperature_from(config: TrainConfig, manifest: Manifest, model: str) -> float | None:
    """The temperature of the finished fold run that a config names, for the final fit of the same recipe.

    Raises UserError as `held_out_answers` does, and for a run on other shards or of another model.
    """
    if not config.temperature_from:
        return None
    where = f"train.temperature_from={config.temperature_from}"
    if config.method == "probe":
        raise UserError(f"{where}: a probe calibrates itself, out of fold; leave it out")
    answers = held_out_answers(config.temperature_from)
    try:
        result: Any = json.loads((answers.parent / RESULT).read_text())
        recipe: Any = yaml.safe_load((answers.parent / "config.yaml").read_text())
        shards, trained = result["inputs"]["shards"], recipe["model"]["name"]
    except (OSError, ValueError, KeyError, TypeError, yaml.YAMLError):
        raise UserError(f"{where}: no run of fgvc classify; give the folder of one that is finished") from None
    if shards != manifest.fingerprint or trained != model:
        raise UserError(f"{where}: a run of other shards or of another model ({trained}); give one of the same recipe")
    predictions = Predictions.load(answers)
    predictions.check_finite()
    return fit_temperature(predictions.logits, predictions.labels)
