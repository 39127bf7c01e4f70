"""Config of a detector: which mmdet model, on which backbone, from which weights. Imports nothing heavy."""

from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Interval

from shards.options import option


@dataclass
class DetectorConfig:
    """Which detector. Every part is built from these values alone: nothing is inherited from config files of mmdet."""

    architecture: Literal["faster_rcnn", "rtmdet"] = option("faster_rcnn", "Faster R-CNN with FPN | RTMDet")
    backbone: str = option(
        "resnet50",
        "mmdet's resnet50 or resnet101 (.TAG: timm's name of hub weights), mmdet's cspnext_tiny, _s, _m or _l, or any "
        "timm model",
    )
    weights: str = option("hub", "of the backbone: hub (pretrained) | none | a .safetensors, .pth or .bin file")
    start: str = option("", "weights of a whole detector to start from: FILE; heads of other classes are left out")
    style: Literal["pytorch", "caffe"] = option("pytorch", "resnet50, resnet101: stride in the 3x3 | 1x1 convolution")
    mean: list[float] = option([], "input mean, 0-255, RGB (empty: the backbone weights' own)")
    std: list[float] = option([], "input standard deviation, 0-255, RGB (empty: the backbone weights' own)")
    frozen_stages: Annotated[int, Interval(ge=0, le=4)] = option(
        1, "the first stages of the backbone keep their weights"
    )
    norm_eval: bool = option(True, "the backbone's BatchNorm keeps its statistics")
    class_agnostic: bool = option(False, "one class, 'object', for everything")
    channels: Annotated[int, Gt(0)] = option(256, "width of the feature pyramid and of convolutions in the heads")
    fc_channels: Annotated[int, Gt(0)] = option(1024, "faster_rcnn: width of the box head's two layers")
    proposals: Annotated[int, Gt(0)] = option(1000, "faster_rcnn: proposals an image")
    samples: Annotated[int, Gt(0)] = option(512, "faster_rcnn: proposals an image that the box head is trained on")
    blocks: Annotated[int, Gt(0)] = option(1, "rtmdet: CSP blocks in every stage of the neck")
    score: Annotated[float, Ge(0)] = option(0.01, "boxes below this score are not given out")
    overlap: Annotated[float, Gt(0)] = option(0.5, "NMS: of boxes with a larger IoU the better one stays")
    per_image: Annotated[int, Gt(0)] = option(100, "boxes an image at most")

    @property
    def hub_names(self) -> list[str]:
        """As ModelConfig's."""
        return [self.hub_name] if self.hub_name else []

    @property
    def hub_name(self) -> str:
        """timm's name of the backbone with the hub's weights; empty where none come from there."""
        if self.weights != "hub" or self.backbone.startswith("cspnext"):
            return ""
        return f"{self.backbone}.tv_in1k" if self.backbone in ("resnet50", "resnet101") else self.backbone
