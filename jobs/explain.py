"""fgvc explain: what a trained classifier looks at, how far each method can be trusted, why this class and not that.

    fgvc explain weights=RUN data.shards=FOLDER                                             200 test images, all methods
    fgvc explain configs/explain/field_guide.yaml weights=RUN                    birds whose telling part is known
    fgvc explain weights=RUN data.shards=FOLDER methods='[cam, gradcam, layercam]' images=50
    fgvc explain weights=RUN data.shards=FOLDER pair='[Red-eyed Vireo, Warbling Vireo]'     why A and not B
    fgvc explain weights=RUN photos=FOLDER                                       photos that are in no shards
    fgvc explain weights=RUN data.shards=FOLDER methods='[cam]' boxes_by=cam     boxes of all images, from their maps
    fgvc classify CONFIG data.crop=square data.boxes=runs/explain/NAME/boxes.jsonl          then: crop by what it saw
    fgvc explain CONFIG weights=RUN --on CLUSTER                                 any of these as a Slurm job

The run folder <runs_dir>/explain/<name>/ holds result.json (every score by method, with intervals), explanations.jsonl
(a line an image), overlays/, sheets by class and by confused pair, contrasts/ (why A and not B), boxes.jsonl. The
methods: fgvc/explanation/config.py; the scores: docs/explain.md. Started again after a kill, it resumes.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from annotated_types import Ge, Gt, Le

from fgvc.explanation.config import METHODS, SLOW, text_table
from fgvc.runtime.config import TrackConfig
from jobs.config import nearest
from jobs.headline import Headline, look_at
from jobs.measured import MeasureConfig, check_weights, name_after_weights
from shards.errors import UserError
from shards.options import option

DEBUG = [
    "data.workers=0", "data.limit=64", "split=train", "seen=true", "images=8", "slow_images=2", "sanity_images=2",
    "birds=4", "contrasts=2", "track.wandb=disabled",
]  # fmt: skip
HEADLINE = Headline("pointing", "pointing game")


@dataclass
class Config(MeasureConfig):
    """Which classifier is explained, on what, by which methods."""

    photos: str = option("", "an image file, or a folder of them, to explain instead of a split")
    seed: int = option(0, "of the images that are drawn, of noise and of randomised weights")
    methods: list[str] = option([], "by name (empty: all that apply); random and centre are always there")
    images: Annotated[int, Ge(0)] = option(200, "images of the split, drawn by seed (0: all)")
    slow_images: Annotated[int, Ge(0)] = option(
        20, "images for slow methods (scorecam, ablationcam, occlusion, gradients) and insertion, deletion, ROAD"
    )
    sanity_images: Annotated[int, Ge(0)] = option(16, "images for maps of randomised weights (0: none)")
    birds: Annotated[int, Ge(0)] = option(60, "field guide: birds that are drawn again without each part (0: none)")
    pair: list[str] = option([], "two classes: why the first and not the second (empty: the two most probable)")
    contrasts: Annotated[int, Ge(0)] = option(6, "pictures of why A and not B, of the closest calls")
    sheet: str = option("", "method that the sheets show (empty: layercam where it applies, or the first)")
    boxes_by: str = option("", "method whose maps become a boxes layer of all images of the shards (empty: none)")
    box_threshold: Annotated[float, Gt(0), Le(1)] = option(0.2, "share of a map's range from which its box is cut")
    track: TrackConfig = field(default_factory=TrackConfig)


def check(config: Config) -> None:
    """Raise UserError for settings that no data could make right."""
    check_weights(config)
    for key, names in (("methods", config.methods), ("boxes_by", [config.boxes_by]), ("sheet", [config.sheet])):
        for name in filter(None, names):
            if name not in METHODS:
                raise UserError(f"{key}={name}: no such method{nearest(name, list(METHODS))}; fgvc explain --help")
    if config.boxes_by == "oracle":
        raise UserError("boxes_by=oracle: it knows the answer; boxes are cut from maps of a classifier")
    if config.sheet in SLOW and not config.slow_images:
        raise UserError(f"sheet={config.sheet}: a slow method, which slow_images=0 leaves out")
    if config.pair and len(set(config.pair)) != 2:
        raise UserError(f"pair: two different classes are needed, these are {config.pair}")


def default_name(config: Config) -> str:
    """The name of a run that was given none, such as cub200_resnet50-test."""
    name = name_after_weights(config, "explain")
    return f"{name.rpartition('-')[0]}-photos" if config.photos else name


def report(result: dict[str, Any], folder: Path) -> str:
    """The lines a run ends with."""
    split, figures = next(
        (key, value) for key, value in result.items() if isinstance(value, dict) and "methods" in value
    )
    lines = [f"{split}: {figures['images']} images", text_table(figures["methods"])]
    if chance := figures.get("chance"):
        lines.append(
            f"without a map: pointing and energy {chance['pointing']:.3f} (the boxes' share of the image), max_box_acc "
            f"{chance['max_box_acc']:.3f}, _v2 {chance['max_box_acc_v2']:.3f} (the whole image as the box)"
        )
    if asked := figures.get("birds", {}).get("asked"):
        area = figures["birds"].get("correctness_of_area")
        lines.append(
            "funnybirds rests on birds: " + ", ".join(f"{question} {count}" for question, count in asked.items())
            + ("" if area is None else f"; correctness of a map that is the same everywhere {area:.3f}")
        )  # fmt: skip
    if figures.get("best"):
        lines.append("best: " + ", ".join(f"{score} {name}" for score, name in figures["best"].items()))
    lines += figures.get("notes", [])
    files = ("result.json", "explanations.jsonl", "classes.png", "confused.png", "contrasts", "overlays", "boxes.jsonl")
    return "\n".join([*lines, f"{result['seconds']:.0f} s; {look_at(folder, *files)}"])
