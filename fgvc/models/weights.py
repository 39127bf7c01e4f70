"""Weights files as users have them: opened without unpickling, fitted to a model or refused by name."""

from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from fgvc.models.layers import classifier_names
from shards.errors import UserError


def load_weights(model: nn.Module, path: Path, head: bool = False) -> None:
    """Load a local state dict. A classifier of another shape is left out unless `head` asks for it.

    Raises UserError as `read_state` does, and when the file was made for another model.
    """
    state = read_state(path, "model.weights")
    own = model.state_dict()
    prefixes = () if head else tuple(f"{name}." for name in classifier_names(model))
    if not head:
        state = {key: value for key, value in state.items() if not key.startswith(prefixes)}
    name = getattr(model, "default_cfg", {}).get("architecture", type(model).__name__)
    check_fit(
        own, state, prefixes, f"model.weights={path}: does not fit {name}",
        "choose the model.name these weights were made for",
    )  # fmt: skip
    model.load_state_dict(state, strict=False)


def check_fit(
    own: dict[str, torch.Tensor], state: dict[str, torch.Tensor], optional: tuple[str, ...], problem: str, advice: str
) -> None:
    """Raise UserError when `state` is not what a model with the tensors `own` takes.

    optional: beginnings of names that may be missing. problem, advice: how the message begins and ends.
    """
    wanted = {key for key in own if not (optional and key.startswith(optional))}
    missing, unknown = sorted(wanted - state.keys()), sorted(state.keys() - own.keys())
    shapes = sorted(key for key in own.keys() & state.keys() if own[key].shape != state[key].shape)
    for kind, keys in (("lacks", missing), ("has unknown", unknown), ("has other shapes for", shapes)):
        if keys:
            raise UserError(f"{problem}: it {kind} {len(keys)} of {len(own)} tensors, first '{keys[0]}'; {advice}")


def read_state(path: Path, key: str) -> dict[str, torch.Tensor]:
    """The tensors of a local weights file, for the setting `key`.

    Only safetensors and torch.load(weights_only=True) are used: nothing in the file can run code.
    Raises UserError when the file is missing, unreadable or holds more than tensors and plain values.
    """
    if not path.is_file():
        raise UserError(f"{key}={path}: no such file; give a path to safetensors or pth")
    try:
        if path.suffix == ".safetensors":
            state = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
            state = state.get("state_dict", state.get("model", state))
        return {name.removeprefix("module."): value for name, value in state.items()}
    except (SafetensorError, RuntimeError, ValueError, AttributeError, EOFError, OSError) as error:
        raise UserError(f"{key}={path}: not readable as weights ({one_line(error)})") from error
    except Exception as error:  # weights_only raises pickle.UnpicklingError and others for files that hold code
        raise UserError(
            f"{key}={path}: holds more than tensors and is not opened; convert it to safetensors"
        ) from error


def one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200]
