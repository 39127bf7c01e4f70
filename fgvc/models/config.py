"""Config of a classifier's network. Imports nothing heavy."""

from dataclasses import dataclass, field
from typing import Annotated, ClassVar

from annotated_types import Ge, Le, Lt

from shards.options import option


@dataclass
class Backbone:
    """A frozen network beside another, each with an input of its own."""

    __pydantic_config__: ClassVar[dict] = {"extra": "forbid"}

    name: str
    weights: str = "hub"
    kwargs: dict = field(default_factory=dict)
    mean: list[float] = field(default_factory=list)
    std: list[float] = field(default_factory=list)
    caffe_stride: bool = False
    size: Annotated[int, Ge(0)] = 0  # side in pixels that images are resized to; 0: as they come


@dataclass
class ModelConfig:
    """Which network, from which weights. Any timm classification model."""

    name: str = option("resnet50", "timm model name; see python -c 'import timm; print(timm.list_models())'")
    weights: str = option("hub", "hub (timm's pretrained) | none | a local .safetensors, .pth or .bin file")
    kwargs: dict = option({}, "more arguments of timm.create_model, e.g. {img_size: 448}")
    drop_rate: Annotated[float, Ge(0), Lt(1)] = option(0.0, "dropout before the classifier")
    drop_path: Annotated[float, Ge(0), Lt(1)] = option(0.0, "stochastic depth")
    mean: list[float] = option([], "input mean, 0-1 (empty: the model's own)")
    std: list[float] = option([], "input standard deviation, 0-1 (empty: the model's own)")
    caffe_stride: bool = option(False, "ResNets: stride on the first 1x1 convolution of a block (Caffe weights)")
    covariance: Annotated[int, Ge(0), Le(128)] = option(
        0, "probe: classify by the covariance of the last feature map's channels, reduced to so many, not by their "
        "means (0: the network's own pooling); 96 is good"
    )  # fmt: skip
    also: list[Backbone] = option(
        [], "probe: frozen networks beside this one, their features side by side under one head: a list such as "
        "[{name: resnet50, weights: FILE, size: 224}] with name, weights, kwargs, mean, std, caffe_stride, size",
    )  # fmt: skip

    @property
    def hub_names(self) -> list[str]:
        """timm's names of the networks whose weights come from the hub."""
        named = [(self.name, self.weights), *((backbone.name, backbone.weights) for backbone in self.also)]
        return [name for name, weights in named if weights == "hub"]
