"""The project whose recipes configs/origin/ keeps: its published figures, and which runs are by its recipe.

Its figures are those of its own event files, on CUB-200-2011 and Stanford Dogs in full, where the test split chose the
epoch. They stand beside a run's as a reader's first question, never as a baseline: a baseline is the recipe run on the
same data.
"""

from collections.abc import Sequence
from pathlib import Path

from fgvc.reporting.numbers import value_at
from fgvc.reporting.runs import Run

PUBLISHED = {
    "cnn": "ResNet-50: CUB 70.8\u00a0%, Dogs 86.8\u00a0% top-1",
    "vit": "first epoch, last: B/16 CUB 47.2, 23.5\u00a0%; L/16 CUB 68.0, 39.6\u00a0%, Dogs 63.2, 1.6\u00a0%",
    "crops": "cropping lost 1 to 2 points: CUB 69.1 and 69.2\u00a0%, Dogs 85.2 and 85.0\u00a0%",
    "gan": "BigGAN: FID 230 to 350 without convergence; DCGAN: the discriminator won; no image was used",
    "explain": "three pictures; nothing was measured",
    "attack": "Dogs: clean 88\u00a0%, 2\u00a0% under its attack, which is noise and mixup without gradients",
}
CLASSIFIER = {  # what all its classifiers' recipes share
    ("image", "fit"): "pad", ("image", "eval_fit"): "pad", ("image", "flip"): 0, ("optim", "lr"): 0.001,
    ("optim", "head_multiplier"): 1, ("train", "label_smoothing"): 0,
}  # fmt: skip
GAN = {("model", "name"): "dcgan", ("model", "norm"): "batch", ("model", "bn_eps"): 0.8, ("train", "batch"): 1}
RECIPES = {"classify": CLASSIFIER, "gan": GAN}
VITS = ("vit", "deit", "beit", "eva", "flexivit", "swin")


def is_origins(run: Run) -> bool:
    """Whether a run was trained by the origin's recipe, whatever its data, size and length."""
    recipe = RECIPES.get(run.job)
    return recipe is not None and all(value_at(run.config, key) == value for key, value in recipe.items())


def of_origin(run: Run, runs: Sequence[Run]) -> bool:
    """Whether a run is by the origin's recipe, or measures the weights of one of these runs that is."""
    weights = run.config.get("weights")
    if is_origins(run) or not isinstance(weights, str):
        return is_origins(run)
    trained = Path(weights).parent.parts[-2:]  # job and name: the runs may have moved since
    return any(other.folder.parts[-2:] == trained and is_origins(other) for other in runs)


def published(run: Run) -> str:
    """What the origin published of the step that a run is of; empty where it had none."""
    if run.job in ("classify", "evaluate"):
        name = str(value_at(run.config, ("model", "name")) or "")
        return PUBLISHED["vit" if name.startswith(VITS) else "cnn"]
    return PUBLISHED.get({"crop": "crops", "detect": "crops"}.get(run.job, run.job), "")


def origin_row(run: Run) -> int | None:
    """The place of the origin's row in a comparison: the first that is called so or is by one of its configs; those
    after it change it."""
    for place in range(len(run.rows("rows"))):
        config = run.get("config", "rows", place, "config")
        if str(run.get("rows", place, "label")).lower().startswith("origin"):
            return place
        if isinstance(config, str) and "origin" in config.replace("\\", "/").split("/")[:-1]:
            return place
    return None
