"""fgvc evaluate: a trained classifier on a split of any shards with the same classes.

    fgvc evaluate weights=runs/classify/NAME/model.safetensors data.shards=FOLDER
    fgvc evaluate weights=runs/classify/NAME/model.safetensors data.shards=FOLDER split=train name=on_train
    fgvc evaluate weights=... data.shards=FOLDER split=held_out data.folds=5 data.fold=0 size=256 flip=true
    fgvc evaluate weights=... data.shards=FOLDER data.boxes=FILE           weights that were trained on crops
    fgvc evaluate CONFIG --on debug

The weights file says itself which model, image size, crop and statistics it was trained with. The run folder
<runs_dir>/evaluate/<name>/ holds result.json (top-1, top-5, per class, ECE, confused pairs), predictions.npz, pictures.
"""

import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from annotated_types import Ge, Gt, Le

from fgvc.models.config import ModelConfig
from shards.errors import UserError
from shards.options import option
from shards.paths import expand
from shards.reading.config import DataConfig, ImageConfig

if TYPE_CHECKING:
    from shards.manifest import Manifest

DEBUG = ["data.workers=0", "data.limit=64"]


@dataclass
class Config:
    """What is measured, on what."""

    name: str = option("", "the run's folder name (empty: the config file's, or 'evaluate')", affects_result=False)
    runs_dir: str = option("runs", "folder of all runs", affects_result=False)
    seed: int = option(0, "unused by evaluation; every job has it")
    weights: str = option("", "a model.safetensors that fgvc classify wrote")
    split: str = option("test", "split to measure; held_out: the fold of train that data.folds and data.fold name")
    size: Annotated[int, Ge(0)] = option(0, "side of the input in pixels (0: as the weights file says)")
    eval_crop: Annotated[float, Ge(0), Le(1)] = option(0.0, "centre crop by resized short side (0: as the file says)")
    flip: bool | None = option(None, "average with the mirror image (null: as the file says)")
    batch: Annotated[int, Gt(0)] = option(64, "images at a time on every rank", affects_result=False)
    precision: Literal["fp32", "bf16", "fp16"] = option("fp32", "of the forward pass")
    data: DataConfig = field(default_factory=DataConfig)


def run(config: Config) -> dict[str, Any]:
    """Evaluate and write the run folder. Raises UserError for unfit weights, other classes, missing splits."""
    from fgvc.classification.metrics import summary
    from fgvc.classification.pictures import save_pictures
    from fgvc.runtime.distributed import rank
    from fgvc.runtime.run_folder import finish, open_run
    from fgvc.training.strategies.create import create_accelerator
    from jobs.config import hashed, to_dict
    from jobs.tasks.data import boxes_hashes, file_hash, open_shards
    from shards.reading.views import eval_policy, open_views, without_box

    began = time.monotonic()
    if not config.weights:
        raise UserError("weights is not set; give a model.safetensors that fgvc classify wrote: weights=FILE")
    inputs = {"weights": file_hash(config.weights, "weights")}
    accelerator = create_accelerator(config.precision, deterministic=False)
    manifest = open_shards(config.data)
    inputs["shards"] = manifest.fingerprint
    about = _record_of(config, manifest)
    data = _data_as_measured(config, about)
    inputs |= boxes_hashes(data)
    identity = hashed(config) | {f"inputs.{key}": value for key, value in inputs.items()}
    with open_run(config.runs_dir, "evaluate", config.name, to_dict(config), identity, main=rank() == 0) as folder:
        if folder.result is not None:
            return folder.result
        members = _members(config, manifest)
        policy = eval_policy(data)
        views = open_views(policy, manifest, members)
        predictions = _predictions(config, manifest, about, data, members, views, accelerator)
        figures: dict[str, Any] = {config.split: summary(predictions, manifest.classes)}
        if policy.uses_boxes:
            missing = without_box(policy, views, members)
            figures["crops"] = {config.split: {"images": len(members), "without_box": missing}}
        if rank() == 0:
            predictions.save(folder.path / "predictions.npz")
            save_pictures(folder.path, manifest, predictions)
            return finish(folder, figures, inputs, time.monotonic() - began)
        return figures


def _record_of(config: Config, manifest: Any) -> dict[str, Any]:
    """What the weights file says of itself. Raises UserError for other files and for shards of other classes."""
    from fgvc.models.export import read_about

    path = expand(config.weights, "weights")
    about = read_about(path)
    if "classes" not in about:
        raise UserError(f"weights={path}: says nothing of its model; give a model.safetensors that fgvc classify wrote")
    if tuple(about["classes"]) != manifest.classes:
        raise UserError(
            f"weights={path}: trained for {len(about['classes'])} classes (first '{about['classes'][0]}'), "
            f"{manifest.folder} has {len(manifest.classes)} (first '{manifest.classes[0]}')"
        )
    return about


def _data_as_measured(config: Config, about: dict[str, Any]) -> DataConfig:
    """The data config with the crops that the weights were measured with; the boxes are those of these shards."""
    boxes = config.data.test_boxes or config.data.boxes
    if about["crop"] != "whole" and about.get("boxes") == "layer" and boxes == "truth" and not config.data.test_boxes:
        raise UserError(
            f"weights={config.weights}: measured on crops by a detector's boxes; give data.boxes=FILE, a boxes layer "
            "of these shards (fgvc crop makes one), or data.test_boxes=truth to crop by the truth all the same"
        )
    return replace(
        config.data, crop=about["crop"], margin=about["margin"], boxes=boxes, min_score=about.get("min_score", 0.0),
        test_crop=None, test_margin=None, test_boxes="", test_min_score=None,
    )  # fmt: skip


def _predictions(
    config: Config, manifest: Any, about: dict[str, Any], data: DataConfig, members: list[int], views: Any,
    accelerator: Any,
) -> Any:  # fmt: skip
    """Rebuild the model from the file's own record and run it over the members."""
    import torch

    from fgvc.classification.evaluation import evaluate_split
    from fgvc.models.normalised import Normalised
    from fgvc.models.timm import create_model
    from fgvc.models.weights import load_weights
    from jobs.tasks.data import loader_workers

    record = about["model"]
    model_config = ModelConfig(record["name"], "none", record["kwargs"], caffe_stride=record["caffe_stride"])
    network = create_model(model_config, len(manifest.classes))
    load_weights(network, expand(config.weights, "weights"), head=True)
    shape = (1, 3, 1, 1)
    model = Normalised(network, torch.tensor(about["mean"]).view(shape), torch.tensor(about["std"]).view(shape))
    image = ImageConfig(
        eval_fit=about["fit"], crop_fit=about.get("crop_fit"), eval_crop=config.eval_crop or about["eval_crop"],
        eval_flip=about["eval_flip"] if config.flip is None else config.flip, interpolation=about["interpolation"],
    )  # fmt: skip
    return evaluate_split(
        model.to(accelerator.device), manifest, members, data, image, config.size or about["size"], views=views,
        device=accelerator.device, precision=config.precision, workers=loader_workers(data, accelerator.num_processes),
        batch=config.batch,
    )  # fmt: skip


def _members(config: Config, manifest: "Manifest") -> list[int]:
    from shards.reading.splits import limited, open_splits

    if config.split != "held_out":
        return limited(manifest.split(config.split), config.data.limit)
    members = open_splits(manifest, config.data).held_out
    if not members:
        raise UserError("split=held_out: name the fold too, such as data.folds=5 data.fold=0")
    return members


def report(result: dict[str, Any], folder: Path) -> str:
    """The lines a run ends with."""
    split, one = next((key, value) for key, value in result.items() if isinstance(value, dict) and "top1" in value)
    worst = sorted(one["per_class"].items(), key=lambda pair: pair[1])[:3]
    return (
        f"{split}: top-1 {one['top1']:.2%}, top-5 {one['top5']:.2%}, mean over classes {one['class_mean']:.2%}, "
        f"ECE {one['ece']:.3f}, {one['count']} images; weakest: "
        + ", ".join(f"{name} {value:.0%}" for name, value in worst)
        + f"\nlook at {folder}: result.json, predictions.npz, confused_pairs.png, class_accuracy.png"
    )
