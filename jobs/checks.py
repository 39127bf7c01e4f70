"""Checks of settings that several jobs share. Nothing heavy: they run before a job is submitted, too."""

import os
from typing import Any

from fgvc.classification.config import TrainConfig
from fgvc.models.config import ModelConfig
from fgvc.robustness.config import DefenceConfig
from fgvc.robustness.epsilon import read_epsilon
from fgvc.training.config import LoopConfig, OptimConfig
from shards.errors import UserError
from shards.paths import MANIFEST, expand, is_remote, no_shards
from shards.reading.config import DataConfig, ImageConfig


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


def check_defence(defence: DefenceConfig, train: TrainConfig) -> None:
    """Raise UserError for a defence that cannot be trained as asked."""
    read_epsilon(defence.epsilon, key="defence.epsilon")
    name = f"defence.method={defence.method}"
    if defence.method != "none" and train.method == "probe":
        raise UserError(f"{name}: a probe trains a linear head alone; set train.method=finetune")
    if defence.teacher and defence.method != "distillation":
        raise UserError(f"defence.teacher={defence.teacher}: only defence.method=distillation has one")
    if defence.method in ("fgsm", "pgd", "trades") and train.precision == "fp16":
        raise UserError(f"{name}: gradients by pixels vanish in fp16; set train.precision=bf16 or fp32")


def check_lessons(train: TrainConfig, defence: DefenceConfig) -> None:
    """Raise UserError for a teacher, or for attention crops, where nothing learns from them as they are meant."""
    for key, value in (("teacher", train.teacher), ("attention_crops", train.attention_crops)):
        if value and train.method == "probe":
            raise UserError(f"train.{key}: a probe fits labels alone; set train.method=finetune")
        if value and defence.method != "none":
            raise UserError(f"train.{key}: does not go with defence.method={defence.method}; set one of them")
    if train.method == "attentive" and (train.head_start == "probe" or train.attention_crops):
        raise UserError(
            "train.method=attentive: its head sees what a new attention pools, so that a probe's head and the maps of "
            "attention crops mean nothing yet; set train.head_start=random train.attention_crops=false"
        )
    if train.attention_crops and (train.mixup or train.cutmix):
        raise UserError(
            "train.attention_crops: a mixed image has no class to look for; set train.mixup=0 train.cutmix=0"
        )
    if train.attention_crops and train.compile:
        raise UserError("train.attention_crops: looks inside the network, which train.compile closes; set one of them")
    if train.attention_crops and train.strategy == "zero3":
        raise UserError(
            "train.attention_crops: reads the classifier's weights outside its layer, where zero3 has them in parts; "
            "set train.strategy=zero2 or fsdp"
        )


def check_networks_and_sizes(
    model: ModelConfig, data: DataConfig, image: ImageConfig, train: TrainConfig, defence: DefenceConfig
) -> None:  # fmt: skip
    """Raise UserError for several networks, sizes or crops where only one can be used."""
    if model.also and train.method != "probe":
        raise UserError(f"model.also: backbones beside {model.name} stay frozen under one head; set train.method=probe")
    if model.covariance and train.method != "probe":
        raise UserError(
            f"model.covariance: for a probe, not train.method={train.method}; set train.method=probe or "
            "model.covariance=0"
        )
    if model.covariance and model.also:
        raise UserError("model.covariance: for one network; set model.also=[] or model.covariance=0")
    if image.sizes and (train.method == "probe" or defence.method != "none"):
        raise UserError("image.sizes: for a train.method with epochs, without a defence; leave it out")
    if len(image.sizes) > train.epochs:
        raise UserError(f"image.sizes: {len(image.sizes)} sizes for train.epochs={train.epochs}; give fewer")
    check_five_crops(image, data.crop, data.test_crop)


def check_five_crops(image: ImageConfig, *crops: str | None, key: str = "image.eval_crops") -> None:
    """Raise UserError where five crops of views that `crops` cut would be of black corners, or all the same."""
    if image.eval_crops == 1:
        return
    fits = (image.eval_fit, image.crop_fit)
    if "pad" in fits or "padded" in crops:
        raise UserError(
            f"{key}=5: the corners of a padded image are black; take center_crop or squash, and another crop"
        )
    if "squash" in fits and image.eval_crop == 1:
        raise UserError(
            f"{key}=5: all five crops of a squashed image are the same at eval_crop=1; take less, or one crop"
        )


def check_choices(train: TrainConfig, data: DataConfig) -> None:
    """Raise UserError for ways to choose an epoch or to balance classes that contradict each other."""
    if train.keep == "best" and train.method == "probe":
        raise UserError("train.keep=best: a probe has no epochs to choose from; leave it out")
    if train.keep == "best" and not data.holdout:
        fold = "; data.folds is kept for measuring what was chosen" if data.folds else ""
        raise UserError(f"train.keep=best: chosen on what? hold out a part of train: data.holdout=0.1{fold}")
    if train.patience and train.keep != "best":
        raise UserError(f"train.patience={train.patience}: waits for a better epoch; it goes with train.keep=best")
    if train.balanced_sampling and train.method == "probe":
        raise UserError("train.balanced_sampling: a probe fits all images at once; set train.class_weights=1 instead")
    if train.balanced_sampling and train.class_weights:
        raise UserError("train.balanced_sampling and train.class_weights both make up for rare classes; set one")


def check_files(config: Any) -> None:
    """Raise UserError for shards and weights that are not there, before anything slow is loaded."""
    data, model = getattr(config, "data", None), getattr(config, "model", None)
    if data is not None and data.shards and not (data.source or "$" in data.shards or is_remote(data.shards)):
        folder = expand(data.shards, "data.shards")
        if not (folder / MANIFEST).is_file():
            raise UserError(no_shards(folder))
    for key, path in (("model.weights", getattr(model, "weights", "")), ("weights", getattr(config, "weights", ""))):
        if path and path not in ("hub", "none") and not {"$", "*"} & set(path) and not expand(path, key).is_file():
            raise UserError(f"{key}={path}: No such file or directory; give a path to safetensors or pth")


def remarks(optim: OptimConfig, train: LoopConfig) -> list[str]:
    """What is allowed and hardly meant, a line each."""
    if optim.warmup_epochs < train.epochs or getattr(train, "method", "") == "probe":
        return []
    return [
        f"optim.warmup_epochs={optim.warmup_epochs:g} is not less than train.epochs={train.epochs}: the learning rate "
        f"rises to the end and never reaches optim.lr={optim.lr:g}"
    ]
