"""What a defence adds to the work of `fgvc classify`: its objective, and what result.json says of its training."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from fgvc.robustness.config import DefenceConfig
from fgvc.robustness.objectives import defended
from fgvc.training.learner import Objective
from jobs.classify import Config
from jobs.tasks.teacher import open_teacher
from shards.errors import UserError
from shards.manifest import Manifest


def open_objective(
    config: Config, defence: DefenceConfig, manifest: Manifest, size: int, device: torch.device,
    weights: torch.Tensor | None, kept_out: Sequence[int],
) -> Objective:  # fmt: skip
    """What `defence` trains. Raises UserError for a teacher of another size of images, and as `open_teacher` does."""
    teacher = None
    if path := defence.teacher:
        teacher, about = open_teacher(path, "defence.teacher", manifest, device, kept_out)
        if about["size"] != size:
            raise UserError(f"defence.teacher={path}: takes images of {about['size']} pixels, not image.size={size}")
    return defended(defence, config.train, len(manifest.classes), config.seed, device, weights, teacher)


def defence_figures(defence: DefenceConfig, metrics: Path) -> dict[str, Any]:
    """What result.json holds of a defence: the last robust accuracies, and the steps of the attack that they are of."""
    rows = [json.loads(line) for line in metrics.read_text().splitlines()]
    keys = ("val_robust", "train_own_attack", "train_pgd", "attack_steps")
    last = {key: row[key] for row in rows for key in keys if key in row}
    return {"method": defence.method, "epsilon": defence.epsilon} | last
