"""What a defence adds to the work of `fgvc classify`: its objective, and what result.json says of its training."""

import json
from pathlib import Path
from typing import Any

import torch

from fgvc.models.timm import load_classifier
from fgvc.robustness.config import DefenceConfig
from fgvc.robustness.objectives import defended
from fgvc.training.learner import Objective
from jobs.classify import Config
from shards.errors import UserError
from shards.manifest import Manifest
from shards.paths import expand


def open_objective(config: Config, manifest: Manifest, size: int, device: torch.device) -> Objective:
    """What `config.defence` trains. Raises UserError for a teacher of other classes or of another size of images."""
    teacher = None
    if path := config.defence.teacher:
        teacher, about = load_classifier(expand(path, "defence.teacher"))
        if tuple(about["classes"]) != manifest.classes:
            raise UserError(f"defence.teacher={path}: its classes are not those of {manifest.folder}")
        if about["size"] != size:
            raise UserError(f"defence.teacher={path}: takes images of {about['size']} pixels, not image.size={size}")
        teacher.to(device)
    return defended(config.defence, config.train, len(manifest.classes), config.seed, device, teacher)


def training_figures(defence: DefenceConfig, metrics: Path) -> dict[str, Any]:
    """What result.json holds of a defence: the last robust accuracies, and where training stepped back."""
    rows = [json.loads(line) for line in metrics.read_text().splitlines()]
    keys = ("val_robust", "train_own_attack", "train_pgd", "attack_steps")
    last = {key: row[key] for row in rows for key in keys if key in row}
    back = [
        {
            "at_step": row["step"],
            "back_to_step": int(row["back_to_step"]),
            "steps_from_here": int(2 * row["attack_steps"]),
        }
        | {key: row[key] for key in ("train_own_attack", "train_pgd")}
        for row in rows
        if "back_to_step" in row
    ]
    return {"method": defence.method, "epsilon": defence.epsilon} | last | {"stepped_back": back}
