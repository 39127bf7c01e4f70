"""The science: models, training, evaluation, run folders, tracking. Imports nothing heavy at package level.

from fgvc import load

load("cub50_lite0").predict("bird.jpg").top      the classifier of a run, on a picture
"""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fgvc.use.predictor import Predictor


def load(
    run: "str | Path", runs_dir: "str | Path" = "runs", device: str = "", detector: "str | Path" = ""
) -> "Predictor":  # fmt: skip
    """The classifier of a finished `fgvc classify` run: run is its name, its folder or its weights file.

    device: cpu, cuda (empty: a GPU where there is one). detector: likewise a `fgvc detect` run, which finds the boxes
    that a classifier of crops needs. Raises UserError for a run that is not there.
    """
    from fgvc.use.find import find_weights
    from fgvc.use.predictor import Predictor  # loads torch

    found = find_weights(detector, runs_dir, "detect") if detector else None
    return Predictor(find_weights(run, runs_dir), device, found)
