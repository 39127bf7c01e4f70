"""Models: any timm network with weights from its hub, a local file or none; frozen BatchNorm; plain export."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from timm.data import resolve_model_data_config
from timm.models import group_parameters
from torch import nn

from fgvc.config import ModelConfig
from fgvc.files import write_bytes
from shards.errors import DataError
from shards.paths import expand

BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.SyncBatchNorm)


def create_model(config: ModelConfig, classes: int) -> nn.Module:
    """A timm model with a fresh head of `classes` outputs. Raises DataError for unknown names and unfit weights."""
    if not timm.is_model(config.name):
        near = timm.list_models(f"*{config.name.split('.')[0]}*")[:3]
        raise DataError(
            f"model.name={config.name}: timm has no such model" + (f"; did you mean {', '.join(near)}?" if near else "")
        )
    arguments: dict[str, Any] = dict(config.kwargs)
    if config.drop_rate:
        arguments["drop_rate"] = config.drop_rate
    if config.drop_path:
        arguments["drop_path_rate"] = config.drop_path
    try:
        model = timm.create_model(config.name, pretrained=config.weights == "hub", num_classes=classes, **arguments)
    except (TypeError, RuntimeError, OSError) as error:
        advice = "; without a connection give model.weights=FILE or none" if config.weights == "hub" else ""
        raise DataError(f"model.name={config.name}: {_one_line(error)}{advice}") from error
    if config.caffe_stride:
        _move_stride(model)
    if config.weights not in ("hub", "none"):
        load_weights(model, expand(config.weights, "model.weights"))
    return model


def load_weights(model: nn.Module, path: Path, head: bool = False) -> None:
    """Load a local state dict. A classifier of another shape is left out unless `head` asks for it.

    Raises DataError as `read_state` does, and when the file was made for another model.
    """
    state = read_state(path, "model.weights")
    own = model.state_dict()
    prefixes = () if head else tuple(f"{name}." for name in classifier_names(model))
    if not head:
        state = {key: value for key, value in state.items() if not key.startswith(prefixes)}
    wanted = {key for key in own if not (prefixes and key.startswith(prefixes))}
    missing = sorted(wanted - state.keys())
    unknown = sorted(state.keys() - own.keys())
    shapes = sorted(key for key in wanted & state.keys() if own[key].shape != state[key].shape)
    for kind, keys in (("lacks", missing), ("has unknown", unknown), ("has other shapes for", shapes)):
        if keys:
            name = getattr(model, "default_cfg", {}).get("architecture", type(model).__name__)
            raise DataError(
                f"model.weights={path}: does not fit {name}: it {kind} {len(keys)} of {len(own)} tensors, "
                f"first '{keys[0]}'; choose the model.name these weights were made for"
            )
    model.load_state_dict(state, strict=False)


def read_state(path: Path, key: str) -> dict[str, torch.Tensor]:
    """The tensors of a local weights file, for the setting `key`.

    Only safetensors and torch.load(weights_only=True) are used: nothing in the file can run code.
    Raises DataError when the file is missing, unreadable or holds more than tensors and plain values.
    """
    if not path.is_file():
        raise DataError(f"{key}={path}: no such file; give a path to safetensors or pth")
    try:
        if path.suffix == ".safetensors":
            state = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
            state = state.get("state_dict", state.get("model", state))
        return {name.removeprefix("module."): value for name, value in state.items()}
    except (SafetensorError, RuntimeError, ValueError, AttributeError, EOFError, OSError) as error:
        raise DataError(f"{key}={path}: not readable as weights ({_one_line(error)})") from error
    except Exception as error:  # weights_only raises pickle.UnpicklingError and others for files that hold code
        raise DataError(
            f"{key}={path}: holds more than tensors and is not opened; convert it to safetensors"
        ) from error


def classifier_names(model: nn.Module) -> list[str]:
    """Module names of the final classifier, as timm records them (two for distilled models)."""
    settings: Any = getattr(model, "pretrained_cfg", {})
    names = settings.get("classifier", ())
    return [names] if isinstance(names, str) else list(names or ())


def classifier_of(model: nn.Module) -> nn.Linear:
    """The final linear layer. Raises DataError for models whose head is not one linear layer."""
    names = classifier_names(model)
    head = model.get_submodule(names[0]) if len(names) == 1 else None
    if not isinstance(head, nn.Linear):
        raise DataError("a probe needs a model whose classifier is one linear layer; use train.head_start=random")
    return head


def input_size(model: nn.Module) -> int:
    """The side in pixels of the model's own input."""
    return int(resolve_model_data_config(model)["input_size"][-1])


def input_statistics(model: nn.Module, config: ModelConfig) -> tuple[torch.Tensor, torch.Tensor]:
    """The mean and std, (1, 3, 1, 1) each on the 0-1 scale: the config's or else the model's own."""
    own = resolve_model_data_config(model)
    shape = (1, 3, 1, 1)
    return torch.tensor(config.mean or own["mean"]).view(shape), torch.tensor(config.std or own["std"]).view(shape)


class Normalised(nn.Module):
    """A model that takes uint8 images: (N, 3, H, W) uint8 -> (N, classes) logits. Normalising runs on the device.

    channels_last: lay images and convolutions out channels first or last; the same numbers but for rounding.
    """

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, model: nn.Module, mean: torch.Tensor, std: torch.Tensor, channels_last: bool = True) -> None:
        super().__init__()
        self.layout = torch.channels_last if channels_last else torch.contiguous_format
        self.model = model.to(memory_format=self.layout)  # type: ignore[call-overload]
        self.register_buffer("mean", mean * 255, persistent=False)
        self.register_buffer("std", std * 255, persistent=False)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        images = images.contiguous(memory_format=self.layout)  # bytes: four times less to move than floats
        return self.model((images.float() - self.mean) / self.std)


def freeze_batch_norm(model: nn.Module, mode: str) -> None:
    """Keep BatchNorm's running statistics ("statistics"), and scale and bias too ("all"); call after model.train()."""
    if mode == "none":
        return
    for module in model.modules():
        if isinstance(module, BATCH_NORMS):
            module.eval()
            if mode == "all":
                module.requires_grad_(False)


def freeze_layers(model: nn.Module, count: int) -> None:
    """Keep the first `count` layers as they are, BatchNorm's statistics too; call after model.train().

    Layers are timm's own coarse groups (`group_matcher`): the stem, then each stage, the classifier last. The frozen
    ones need no backward pass, which saves time as well as overfitting. Raises DataError when too few are left.
    """
    if not count:
        return
    matcher: Any = getattr(model, "group_matcher", None)
    layers = group_parameters(model, matcher(coarse=True), reverse=True) if matcher else {}
    most = max(layers.values(), default=0)
    if count > most:
        raise DataError(f"train.freeze_layers={count}: this model has {most} layers before its classifier")
    frozen = {name for name, layer in layers.items() if layer < count}
    for name, parameter in model.named_parameters():
        if name in frozen:
            parameter.requires_grad_(False)
    for name, module in model.named_modules():
        if isinstance(module, BATCH_NORMS) and f"{name}.weight" in frozen:
            module.eval()


@contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """Evaluation mode while entered; afterwards every module is in the mode it was in, frozen BatchNorm too."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def export(path: Path, state: dict[str, torch.Tensor], about: dict[str, Any]) -> None:
    """Write plain safetensors that timm.create_model(...).load_state_dict takes with strict=True.

    `about` (model name, classes, input size and statistics) goes into the file's metadata, each value as JSON.
    """
    tensors = {key: value.detach().cpu().contiguous() for key, value in state.items()}
    write_bytes(path, save(tensors, metadata={key: json.dumps(value) for key, value in about.items()}))


def read_about(path: Path) -> dict[str, Any]:
    """What `export` wrote beside the tensors; empty for a file that someone else made."""
    try:
        with safe_open(path, framework="pt") as stream:
            return {key: json.loads(value) for key, value in (stream.metadata() or {}).items() if key != "format"}
    except (SafetensorError, OSError, ValueError) as error:
        raise DataError(f"{path}: not readable as safetensors ({_one_line(error)})") from None


def _move_stride(model: nn.Module) -> None:
    """The original ("Caffe") ResNet halves the map in a block's first 1x1 convolution, timm's in the 3x3."""
    for name in ("layer2", "layer3", "layer4"):
        layer = getattr(model, name, None)
        if layer is None or not hasattr(layer[0], "conv3"):
            raise DataError("model.caffe_stride=true: only for bottleneck ResNets such as resnet50")
        layer[0].conv1.stride, layer[0].conv2.stride = (2, 2), (1, 1)


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200]
