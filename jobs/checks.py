"""Checks of settings that several jobs share. Nothing heavy: they run before a job is submitted, too."""

import os

from fgvc.classification.config import TrainConfig
from fgvc.training.config import LoopConfig, OptimConfig
from shards.errors import UserError


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


def remarks(optim: OptimConfig, train: LoopConfig) -> list[str]:
    """What is allowed and hardly meant, a line each."""
    if optim.warmup_epochs < train.epochs or getattr(train, "method", "") == "probe":
        return []
    return [
        f"optim.warmup_epochs={optim.warmup_epochs:g} is not less than train.epochs={train.epochs}: the learning rate "
        f"rises to the end and never reaches optim.lr={optim.lr:g}"
    ]
