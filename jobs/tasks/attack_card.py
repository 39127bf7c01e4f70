"""What `fgvc attack` shows: pictures, card.html, the tracker."""

from collections.abc import Collection
from pathlib import Path
from typing import Any

from fgvc.robustness.autoattack import parts_of
from fgvc.robustness.card import write_card
from fgvc.robustness.evaluation import Bench, Findings
from fgvc.robustness.examples import examples
from fgvc.robustness.figures import flips
from fgvc.robustness.pictures import accuracy_curve, flip_matrix, perturbed_images
from fgvc.runtime.tracking import Tracker
from jobs.attack import Config
from jobs.config import to_dict
from jobs.tasks.measured import Measured


def show(
    config: Config, bench: Bench, measured: Measured, found: Findings, told: dict[str, Any], folder: Path
) -> None:  # fmt: skip
    """Write pictures and card.html into the run folder and log the figures. Rank 0 calls it."""
    classes = measured.manifest.classes
    pictures = {name: folder / f"{name}.png" for name in ("accuracy_curve", "flip_matrix", "perturbed_images")}
    accuracy_curve(pictures["accuracy_curve"], told)
    if pairs := flips(found, classes):
        flip_matrix(pictures["flip_matrix"], pairs, classes, config.norm)
    if shown := examples(bench, found, classes):
        perturbed_images(pictures["perturbed_images"], shown, config.norm)
    pictures = {name: file for name, file in pictures.items() if file.is_file()}
    write_card(folder / "card.html", config.name, told, _facts(config, measured, told), pictures)
    scalars = {key: value for key, value in told.items() if isinstance(value, int | float)}
    tracker = Tracker(config.track, folder, "attack", config.name, to_dict(config))
    tracker.log(0, scalars)
    tracker.pictures(0, pictures)
    tracker.summary(scalars)
    tracker.close()


def _facts(config: Config, measured: Measured, told: dict[str, Any]) -> dict[str, str]:
    """How the figures were made, as the card's last table says it."""
    about = measured.about
    drawn = "all" if told["count"] == len(measured.indices) else f"{told['count']} drawn by seed {config.seed}"
    facts: dict[str, str] = {
        "model": f"{about['model']['name']}, {about['size']} px, {len(about['classes'])} classes",
        "weights": f"{config.weights} ({measured.inputs['weights']})",
        "images": f"{drawn} of {len(measured.indices)} of the split {config.split}, {measured.manifest.folder.name}",
        "seen in training": {
            None: "not known",
            False: "none of them",
            True: "YES: the figures say nothing of new images",
        }[measured.marks["seen"]],
        "pixels": "float32 in [0, 1], resized and cropped as the model is measured; normalisation is part of the model",
        "in front of the model": config.preprocess if config.preprocess != "none" else "nothing",
    }
    return facts | budgets(config, told["attacks"], len(about["classes"]))


def budgets(config: Config, run: Collection[str], classes: int) -> dict[str, str]:
    """Attack -> its budget as the card says it, of those that were run."""
    budget, random = config.autoattack, config.preprocess == "noise"
    size = f"{config.step_size:g} epsilon" if config.step_size else "2.5 epsilon / steps"
    iterated = f"{config.steps} steps of {size}, {config.restarts} random start(s) keyed by image"
    targets, parts = min(budget.targets, classes - 1), parts_of(classes, random)
    auto = f"{', '.join(parts)}: {budget.steps} steps"
    if random:
        auto += ", 20 draws a gradient (its version for random models)"
    else:
        auto += f", {targets} target classes, {budget.queries} queries"
    told = {
        "pgd": iterated,
        "mi_fgsm": f"{config.steps} steps of epsilon / steps, momentum 1, no random start",
        "adaptive": iterated + (f", {config.draws} draws a gradient" if random else ""),
        "autoattack": auto,
        "square": f"{budget.queries} queries",
        "transfer": f"mi_fgsm's, made on {config.transfer}",
    }
    answer = {"the model's answer": f"mean softmax over {config.draws} passes, noise by image"} if random else {}
    return answer | {name: text for name, text in told.items() if name in run}
