"""Checks of settings that several jobs share. Nothing heavy: they run before a job is submitted, too."""

import os
from typing import Any

from fgvc.classification.config import TrainConfig
from fgvc.training.config import LoopConfig, OptimConfig
from shards.errors import UserError
from shards.paths import MANIFEST, expand


def check_mixing(train: TrainConfig) -> None:
    """Raise UserError where mixup or cutmix would find an odd micro-batch, of which it pairs neighbours."""
    ranks = int(os.environ.get("WORLD_SIZE", "1"))
    micro, rest = divmod(train.batch, ranks * train.accumulation)
    if (train.mixup or train.cutmix) and not rest and micro % 2:
        raise UserError(
            f"train.batch={train.batch} on {ranks} rank(s) x train.accumulation={train.accumulation}: mixup and cutmix "
            f"pair neighbours, and a micro-batch of {micro} is odd; choose a multiple of "
            f"{2 * ranks * train.accumulation}"
        )


def check_files(config: Any) -> None:
    """Raise UserError for shards and weights that are not there, before anything slow is loaded."""
    data, model = getattr(config, "data", None), getattr(config, "model", None)
    if data is not None and data.shards and not data.source and "$" not in data.shards:
        folder = expand(data.shards, "data.shards")
        if not (folder / MANIFEST).is_file():
            raise UserError(
                f"{folder}: no {MANIFEST} there; build the shards with: fgvc shards build SOURCE ROOT {folder}"
            )
    for key, path in (("model.weights", getattr(model, "weights", "")), ("weights", getattr(config, "weights", ""))):
        if path and path not in ("hub", "none") and "$" not in path and not expand(path, key).is_file():
            raise UserError(f"{key}={path}: No such file or directory; give a path to safetensors or pth")


def remarks(optim: OptimConfig, train: LoopConfig) -> list[str]:
    """What is allowed and hardly meant, a line each."""
    if optim.warmup_epochs < train.epochs or getattr(train, "method", "") == "probe":
        return []
    return [
        f"optim.warmup_epochs={optim.warmup_epochs:g} is not less than train.epochs={train.epochs}: the learning rate "
        f"rises to the end and never reaches optim.lr={optim.lr:g}"
    ]
