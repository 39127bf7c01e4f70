"""Any timm network: created with weights from its hub, a local file or none, and what input it expects."""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import timm
import torch
from huggingface_hub.errors import LocalEntryNotFoundError
from timm.data import resolve_model_data_config
from torch import nn

from fgvc.models.config import Backbone, ModelConfig
from fgvc.models.covariance import SecondOrder
from fgvc.models.ensemble import Ensemble, Statistics
from fgvc.models.hub import no_such_model, one_try
from fgvc.models.normalised import Normalised
from fgvc.models.record import read_classifier
from fgvc.models.weights import load_weights, one_line
from shards.errors import UserError
from shards.paths import expand


def create_model(config: ModelConfig, classes: int) -> nn.Module:
    """A timm model with a fresh head of `classes` outputs; several under one head where `also` names some; pooled by
    `covariance` where that is set. Raises UserError for unknown names and unfit weights."""
    if config.also:
        return _ensemble([_as_backbone(config), *config.also], classes)
    if config.covariance:
        return SecondOrder(create_model(replace(config, covariance=0), 0), config.covariance, classes)
    if not timm.is_model(config.name):
        raise UserError(f"model.name={no_such_model(config.name)}")
    arguments: dict[str, Any] = dict(config.kwargs)
    if config.drop_rate:
        arguments["drop_rate"] = config.drop_rate
    if config.drop_path:
        arguments["drop_path_rate"] = config.drop_path
    hub = config.weights == "hub"
    try:
        with one_try() if hub else nullcontext():
            model: Any = timm.create_model(config.name, pretrained=hub, num_classes=classes, **arguments)
    except LocalEntryNotFoundError as error:
        raise UserError(
            f"model.name={config.name}: its weights are not cached here and the hub does not answer; get them where "
            f"there is a connection (fgvc weights get {config.name}), or give model.weights=FILE (none: random weights)"
        ) from error
    except (TypeError, ValueError, AssertionError, RuntimeError, OSError) as error:
        advice = "; give model.weights=FILE or none" if hub else ""
        raise UserError(f"model.name={config.name}: {one_line(error)}{advice}") from error
    if config.caffe_stride:
        _move_stride(model)
    if config.weights not in ("hub", "none"):
        new_pool = config.kwargs.get("global_pool") == "map"
        load_weights(model, expand(config.weights, "model.weights"), new_pool=new_pool)
    if size := config.kwargs.get("img_size"):
        height, width = size if isinstance(size, list | tuple) else (size, size)
        _check_patches(model, height, width)
        model.pretrained_cfg = dict(model.pretrained_cfg) | {"input_size": (3, height, width)}
    return model


@cache
def fetch_hub_weights(name: str) -> None:
    """Download a model's pretrained weights into this user's cache, so that nodes without internet find them there.

    Raises UserError when timm has no such model, the model has no weights, or the hub cannot be reached.
    """
    create_model(ModelConfig(name, "hub"), 0)


def load_classifier(path: Path) -> tuple[Normalised, dict[str, Any]]:
    """A classifier from the weights file that `fgvc classify` wrote: (N, 3, H, W) uint8 -> (N, classes) logits, and
    what the file says of it (`read_classifier`)."""
    about = read_classifier(path)
    record, classes = about["model"], len(about["classes"])
    if record.get("backbones"):
        network: nn.Module = _ensemble(
            [Backbone(weights="none", **backbone) for backbone in record["backbones"]], classes
        )
    else:
        config = ModelConfig(
            record["name"], "none", record["kwargs"], caffe_stride=record["caffe_stride"],
            covariance=record.get("covariance", 0),
        )  # fmt: skip
        network = create_model(config, classes)
    load_weights(network, path, head=True)
    mean, std = (torch.tensor(about[key]).view(1, 3, 1, 1) for key in ("mean", "std"))
    return Normalised(network, mean, std), about


def input_size(model: nn.Module) -> int:
    """The side in pixels of the input that the model was built for."""
    patches = getattr(getattr(model, "patch_embed", None), "img_size", None)
    return int((patches or resolve_model_data_config(model)["input_size"])[-1])


def input_statistics(model: nn.Module, config: ModelConfig) -> tuple[torch.Tensor, torch.Tensor]:
    """The mean and std, (1, 3, 1, 1) each on the 0-1 scale: the config's or else the model's own. An ensemble's
    backbones normalise by themselves what it takes as it is."""
    mean, std = _statistics(model, ModelConfig() if config.also else config)
    return torch.tensor(mean).view(1, 3, 1, 1), torch.tensor(std).view(1, 3, 1, 1)


def model_record(config: ModelConfig, network: nn.Module) -> dict[str, Any]:
    """What a weights file says of a network, so that `load_classifier` builds it again."""
    if not isinstance(network, Ensemble):
        record = {"name": config.name, "kwargs": config.kwargs, "caffe_stride": config.caffe_stride}
        return record | ({"covariance": config.covariance} if config.covariance else {})
    backbones = [
        {
            "name": one.name, "kwargs": one.kwargs, "caffe_stride": one.caffe_stride, "size": one.size, "mean": mean,
            "std": std,
        }
        for one, (mean, std) in zip([_as_backbone(config), *config.also], network.statistics, strict=True)
    ]  # fmt: skip
    return {"name": "ensemble", "kwargs": {}, "caffe_stride": False, "backbones": backbones}


def _ensemble(members: Sequence[Backbone], classes: int) -> Ensemble:
    """Backbones without classifiers under one head."""
    networks, statistics = [], []
    for member in members:
        config = ModelConfig(
            member.name, member.weights, member.kwargs, mean=member.mean, std=member.std,
            caffe_stride=member.caffe_stride,
        )  # fmt: skip
        networks.append(create_model(config, 0))
        statistics.append(_statistics(networks[-1], config))
    return Ensemble(networks, [member.size for member in members], statistics, classes, input_size(networks[0]))


def _as_backbone(config: ModelConfig) -> Backbone:
    """The network that a config names first; images come in its size."""
    return Backbone(config.name, config.weights, config.kwargs, config.mean, config.std, config.caffe_stride)


def _statistics(model: nn.Module, config: ModelConfig) -> Statistics:
    own = resolve_model_data_config(model)
    return config.mean or own["mean"], config.std or own["std"]


def _check_patches(model: nn.Module, *sides: int) -> None:
    """timm cuts an image into whole patches and leaves out what is over, without a word."""
    patches: Any = getattr(getattr(model, "patch_embed", None), "patch_size", ())
    for side, patch in zip(sides, patches, strict=False):
        if side % patch:
            below = side // patch * patch
            raise UserError(
                f"model.kwargs: img_size {side} is not a multiple of the network's patches of {patch} pixels; take "
                f"{below or patch} or {below + patch}, and image.size with it"
            )


def _move_stride(model: nn.Module) -> None:
    """The original ("Caffe") ResNet halves the map in a block's first 1x1 convolution, timm's in the 3x3."""
    for name in ("layer2", "layer3", "layer4"):
        layer = getattr(model, name, None)
        if layer is None or not hasattr(layer[0], "conv3"):
            raise UserError("model.caffe_stride=true: only for bottleneck ResNets such as resnet50")
        layer[0].conv1.stride, layer[0].conv2.stride = (2, 2), (1, 1)
