"""Config of a classifier's network. Imports nothing heavy."""

from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge, Lt

from shards.options import option


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

    @property
    def hub_name(self) -> str:
        """timm's name of the network whose weights come from the hub; empty where none do."""
        return self.name if self.weights == "hub" else ""
