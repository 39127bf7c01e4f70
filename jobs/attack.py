"""fgvc attack: how a trained classifier holds up against perturbed images, and whether that figure can be believed.

    fgvc attack weights=RUN data.shards=FOLDER
    fgvc attack weights=... data.shards=FOLDER epsilon=8/255 images=500 restarts=5
    fgvc attack weights=... data.shards=FOLDER norm=l2 epsilon=1.0
    fgvc attack weights=... data.shards=FOLDER attacks=[pgd] checks=false corruptions=false        quick
    fgvc attack weights=... data.shards=FOLDER attacks=[autoattack,transfer] transfer=OTHER/model.safetensors
    fgvc attack weights=... data.shards=FOLDER preprocess=jpeg                 a defence in front of the classifier
    fgvc attack CONFIG --on CLUSTER | --on debug | --processes 2
    fgvc compare job=attack a.yaml b.yaml folds=0 evaluate_test=true           rows of models, one attack set

Perturbations are made in fp32 on pixels in [0, 1] of the classifier's input, resized and cropped as it was measured.
The headline counts an image as robust if it is classified rightly under everything that was run on it at epsilon. A
killed run resumes chunk by chunk; ranks and workers change no figure. The run folder <runs_dir>/attack/<name>/ holds
result.json (accuracies with Wilson intervals, by attack, class and pair of species; checks), card.html, pictures.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from annotated_types import Gt

from fgvc.robustness.attack_config import ATTACKS, AttackConfig, AutoAttackConfig
from fgvc.robustness.epsilon import read_epsilon
from fgvc.runtime.config import TrackConfig
from jobs.config import nearest
from jobs.headline import Headline, look_at
from jobs.measured import MeasureConfig, check_weights, name_after_weights
from shards.errors import UserError
from shards.options import option

DEBUG = [
    "data.workers=0", "data.limit=64", "split=train", "seen=true", "images=8", "steps=3", "check_images=4",
    "check_queries=10", "autoattack.steps=3", "autoattack.targets=2", "autoattack.queries=10", "track.wandb=disabled",
]  # fmt: skip
LIMITS = {"none": (0, 0), "quantize": (2, 256), "jpeg": (1, 100), "noise": (0, 1)}  # of preprocess_strength


@dataclass
class Config(AttackConfig, MeasureConfig):
    """What is attacked, on which images, how."""

    batch: Annotated[int, Gt(0)] = option(50, "images of a chunk; AutoAttack's random draws are a chunk's")
    autoattack: AutoAttackConfig = field(default_factory=AutoAttackConfig)
    track: TrackConfig = field(default_factory=TrackConfig)


def all_run(figures: dict[str, Any]) -> list[str]:
    """What was run at epsilon, on all images or on some: the headline is the worst of it, image by image."""
    return [*figures["robust_under"], *figures.get("robust_besides", {})]


def columns(figures: dict[str, Any]) -> dict[str, float]:
    """Clean accuracy and that under every attack at epsilon, for a comparison's table."""
    shown = figures["epsilon_shown"]
    return {"clean": figures["clean"]} | {
        name: figures["attacks"][name][shown]["accuracy"] for name in figures["robust_under"]
    }


def conditions(figures: dict[str, Any]) -> str:
    """What a comparison's rows were attacked with."""
    return f"under {figures['norm']} {figures['epsilon_shown']}, the worst of {', '.join(all_run(figures))}"


HEADLINE = Headline(
    "robust", "robust accuracy", columns=columns, conditions=conditions,
    same=(
        "norm", "epsilon", "attacks", "steps", "step_size", "restarts", "draws", "autoattack.", "transfer", "target",
        "batch", "checks", "check_images", "check_queries",
    ),
)  # fmt: skip


def check(config: Config) -> None:
    """Raise UserError for settings that no data could make right."""
    check_weights(config)
    read_epsilon(config.epsilon, config.norm)
    for name in config.attacks:
        if name not in ATTACKS:
            raise UserError(f"attacks: unknown '{name}'{nearest(name, list(ATTACKS))}; there are {', '.join(ATTACKS)}")
    if not config.attacks:
        raise UserError(f"attacks is empty; give at least one of {', '.join(ATTACKS)}")
    low, high = LIMITS[config.preprocess]
    if config.preprocess_strength and not low <= config.preprocess_strength <= high:
        raise UserError(
            f"preprocess_strength={config.preprocess_strength:g}: {config.preprocess} takes {low:g} to {high:g}"
        )
    if ("transfer" in config.attacks) != bool(config.transfer):
        raise UserError(
            "transfer needs both: 'transfer' among attacks, and transfer=FILE, another classifier's weights"
        )


def default_name(config: Config) -> str:
    """The name of a run that was given none, such as cub200_resnet50-test."""
    return name_after_weights(config, "attack")


def report(result: dict[str, Any], folder: Path) -> str:
    """The lines a run ends with."""
    split, figures = next(
        (key, value) for key, value in result.items() if isinstance(value, dict) and "robust" in value
    )
    low, high = figures["robust_interval"]
    lines = [
        f"{split}: clean {figures['clean']:.2%}, robust {figures['robust']:.2%} [{low:.2%}, {high:.2%}] at "
        f"{figures['norm']} {figures['epsilon_shown']}, the worst of {', '.join(all_run(figures))}; "
        f"{figures['count']} images"
    ]
    checks = figures["checks"]
    red = [name for name, found in checks.items() if found["passed"] is False]
    if red:
        lines.append(f"NOT TO BE BELIEVED: accuracy under PGD and FGSM; checks that are red: {', '.join(red)}")
    elif checks:
        lines.append(f"none of {len(checks)} checks is red")
    return "\n".join([*lines, look_at(folder, "card.html", "result.json")])
