"""Backbones of detectors: mmdet's and any timm model with feature maps, their weights and what input they expect."""

import os
import warnings
from typing import Any

import timm
import torch
from torch import nn

if not torch.cuda.is_available():
    os.environ.setdefault("DS_ACCELERATOR", "cpu")  # mmengine imports DeepSpeed, which warns where it has to find out

import fgvc.detection.mmcv_kernels  # noqa: F401  before anything of mmdet
from fgvc.detection.config import DetectorConfig
from fgvc.models.config import ModelConfig
from fgvc.models.layers import BATCH_NORMS
from fgvc.models.timm import create_model
from fgvc.models.weights import read_state
from shards.errors import UserError
from shards.paths import expand

from mmdet.registry import MODELS
from mmdet.utils import register_all_modules
from mmengine.logging import MMLogger
from mmengine.model import BaseModule

CAFFE_MEAN = [123.68, 116.779, 103.939]  # RGB, without division: the original ResNets' input
RESNETS = {"resnet50": 50, "resnet101": 101}
CSPNEXTS = {
    "cspnext_tiny": (0.167, 0.375),
    "cspnext_s": (0.33, 0.5),
    "cspnext_m": (0.67, 0.75),
    "cspnext_l": (1.0, 1.0),
}
CSPNEXT_MEAN, CSPNEXT_STD = [123.675, 116.28, 103.53], [58.395, 57.12, 57.375]

register_all_modules()  # and make "mmdet" the scope in which names are looked up
warnings.filterwarnings("ignore", message="torch.meshgrid")  # mmdet's, of a keyword to come
MMLogger.get_current_instance().setLevel("WARNING")  # it logs every tensor it initialises


@MODELS.register_module()
class TimmBackbone(BaseModule):
    """The last `levels` feature maps of any timm model, as an mmdet backbone: (N, 3, H, W) -> levels x (N, C, h, w)."""

    def __init__(self, name: str, levels: int, frozen_stages: int, norm_eval: bool) -> None:
        super().__init__()
        indices = tuple(range(-levels, 0))
        self.features = timm.create_model(name, features_only=True, out_indices=indices)
        self.norm_eval = norm_eval
        if frozen_stages:
            self._freeze(frozen_stages)

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return tuple(self.features(images))

    def train(self, mode: bool = True) -> "TimmBackbone":
        super().train(mode)
        if mode and self.norm_eval:
            for module in self.modules():
                if isinstance(module, BATCH_NORMS):
                    module.eval()
        return self

    def _freeze(self, stages: int) -> None:
        """Everything up to the end of the stage that makes the feature map of stride 2 ** (stages + 1)."""
        info: Any = self.features.feature_info
        last = [stage["module"] for stage in info.info if stage["reduction"] <= 2 ** (stages + 1)][-1]
        names = [name.replace("_", ".") for name, _ in self.features.named_parameters()]
        end = max(i for i, name in enumerate(names) if name.startswith(last.replace("_", ".") + "."))
        for parameter in list(self.features.parameters())[: end + 1]:
            parameter.requires_grad_(False)


def describe_backbone(config: DetectorConfig, levels: int) -> tuple[dict[str, Any], list[int]]:
    """The backbone's description and the channels of its last `levels` feature maps."""
    name = config.backbone.split(".")[0]
    last = (0, 1, 2, 3)[-levels:]
    if name in RESNETS:
        description = {
            "type": "ResNet", "depth": RESNETS[name], "num_stages": 4, "out_indices": last, "style": config.style,
            "frozen_stages": config.frozen_stages or -1, "norm_eval": config.norm_eval,
            "norm_cfg": {"type": "BN", "requires_grad": True},
        }  # fmt: skip
        return description, [256, 512, 1024, 2048][-levels:]
    if config.backbone in CSPNEXTS:
        deep, wide = CSPNEXTS[config.backbone]
        description = {
            "type": "CSPNeXt", "arch": "P5", "expand_ratio": 0.5, "deepen_factor": deep, "widen_factor": wide,
            "channel_attention": True, "norm_cfg": {"type": "BN"}, "act_cfg": {"type": "SiLU", "inplace": True},
            "out_indices": (1, 2, 3, 4)[-levels:], "frozen_stages": config.frozen_stages or -1,
            "norm_eval": config.norm_eval,
        }  # fmt: skip
        return description, [round(wide * width) for width in (128, 256, 512, 1024)][-levels:]
    description = {
        "type": "TimmBackbone", "name": config.backbone, "levels": levels,
        "frozen_stages": config.frozen_stages, "norm_eval": config.norm_eval,
    }  # fmt: skip
    probe: Any = timm.create_model(config.backbone, features_only=True, out_indices=tuple(range(-levels, 0)))
    if probe.feature_info.reduction() != [4, 8, 16, 32][-levels:]:
        raise UserError(f"model.backbone={config.backbone}: its maps have strides {probe.feature_info.reduction()}")
    return description, probe.feature_info.channels()


def load_backbone(config: DetectorConfig) -> nn.Module | None:
    """The backbone's pretrained weights as a classifier of timm's (its keys are mmdet's too); None for random ones."""
    if config.weights == "none":
        return None
    if config.backbone in CSPNEXTS:
        if config.weights == "hub":
            raise UserError(
                f"model.weights=hub: no hub has {config.backbone}; download mmdet's cspnext file and give its path, or "
                "none"
            )
        path = expand(config.weights, "model.weights")
        holder = nn.Module()
        holder.tensors = read_state(path, "model.weights")  # type: ignore[assignment]
        return holder
    return create_model(
        ModelConfig(config.hub_name or config.backbone, config.weights), 1000 if config.weights == "hub" else 0
    )


def copy_backbone(backbone: nn.Module, source: nn.Module) -> None:
    """Give the backbone every tensor of its own from `source`. Raises UserError when one is missing or misshapen."""
    found = getattr(source, "tensors", None) or source.state_dict()
    found = {key.removeprefix("backbone.").replace(".", "_"): value for key, value in found.items()}
    own = backbone.state_dict()
    state = {}
    for key, tensor in own.items():
        value = found.get(key.removeprefix("features.").replace(".", "_"))
        if value is None or value.shape != tensor.shape:
            raise UserError(f"model.weights: do not fit model.backbone: '{key}' is missing or of another shape")
        state[key] = value
    backbone.load_state_dict(state)


def input_statistics(config: DetectorConfig, source: nn.Module | None) -> tuple[list[float], list[float]]:
    """Mean and std of the input, 0-255, RGB: the config's, or what the backbone's weights were trained with."""
    if config.style == "caffe":
        mean, std = CAFFE_MEAN, [1.0, 1.0, 1.0]
    elif config.backbone in CSPNEXTS:
        mean, std = CSPNEXT_MEAN, CSPNEXT_STD
    else:
        settings: Any = getattr(source, "pretrained_cfg", None) or timm.get_pretrained_cfg(config.backbone)
        own = settings if isinstance(settings, dict) else settings.to_dict()
        mean, std = [255 * value for value in own["mean"]], [255 * value for value in own["std"]]
    return config.mean or list(mean), config.std or list(std)
