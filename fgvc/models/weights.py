"""Weights files as users have them: opened without unpickling, fitted to a model or refused by name."""

import argparse
import logging
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from fgvc.models.layers import classifier_names
from shards.errors import UserError

log = logging.getLogger(__name__)

# Where programs keep the state dict in what they save. The average comes first, as timm's own loader has it: it is
# what those programs evaluate.
WRAPPERS = (
    "state_dict_ema", "model_ema", "ema_state_dict", "ema", "params_ema", "state_dict", "model_state_dict", "model",
    "module", "network", "net", "weights", "params",
)  # fmt: skip
POOL = "attn_pool."  # a pooling that an attentive probe learns: few files have one
# What DDP, torch.compile, Lightning modules and other containers put before a network's own names.
PREFIXES = ("module.", "_orig_mod.", "model.", "net.", "network.", "backbone.")


def load_weights(model: nn.Module, path: Path, head: bool = False, new_pool: bool = False) -> None:
    """Load a local state dict. A classifier of another shape is left out unless `head` asks for it. new_pool: the model
    was given an attention that pools its patches, which the file may lack.

    Names may carry the prefixes of `PREFIXES`, in any order. What still does not fit goes through timm's filter for
    this architecture, which knows the original repositories' names and resamples position and patch embeddings to the
    model's size. Counts of batches that BatchNorm has seen may be missing.
    Raises UserError as `read_state` does, and when the file was made for another model.
    """
    state = _tensors(path, "model.weights")
    first = ", ".join(f"'{key}'" for key in list(state)[:3])
    own = model.state_dict()
    optional = () if head else tuple(f"{name}." for name in classifier_names(model))
    state = _complete(own, strip_prefixes(state, own), optional)
    if not _fits(own, state, _optional(optional, state, new_pool)):
        state = _complete(own, _filtered(model, state), optional)
    optional = _optional(optional, state, new_pool)
    name = getattr(model, "default_cfg", {}).get("architecture", type(model).__name__)
    check_fit(
        own, state, optional, f"model.weights={path}: does not fit {name}",
        f"the file's first keys: {first}; choose the model.name these weights were made for",
    )  # fmt: skip
    model.load_state_dict(state, strict=False)


def _optional(names: tuple[str, ...], state: Mapping[str, Any], new_pool: bool) -> tuple[str, ...]:
    """Beginnings of names that may be missing: `names`, and a new pool of which the state holds nothing."""
    return (*names, POOL) if new_pool and not any(key.startswith(POOL) for key in state) else names


def strip_prefixes(state: dict[str, torch.Tensor], own: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """A state dict without the containers' prefixes that keep all of its names from being among `own`.

    Tensors outside the container (a loss's weights, counters) are dropped with the prefix.
    """
    while not state.keys() & own.keys():
        prefix = next((prefix for prefix in PREFIXES if any(key.startswith(prefix) for key in state)), None)
        if prefix is None:
            break
        state = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
    return state


def check_fit(
    own: dict[str, torch.Tensor], state: dict[str, torch.Tensor], optional: tuple[str, ...], problem: str, advice: str
) -> None:
    """Raise UserError when `state` is not what a model with the tensors `own` takes.

    optional: beginnings of names that may be missing. problem, advice: how the message begins and ends.
    """
    for kind, keys in _misfits(own, state, optional).items():
        if keys:
            raise UserError(f"{problem}: it {kind} {len(keys)} of {len(own)} tensors, first '{keys[0]}'; {advice}")


def read_state(path: Path, key: str) -> dict[str, torch.Tensor]:
    """The tensors of a local weights file, for the setting `key`, taken out of what other programs wrap them in.

    Only safetensors and torch.load(weights_only=True) are used: nothing in the file can run code. Of all other types
    argparse.Namespace is allowed, which timm keeps its training script's options in; it holds values only.
    Raises UserError when the file is missing, unreadable or holds more than tensors and plain values.
    """
    return {name.removeprefix("module."): value for name, value in _tensors(path, key).items()}


def one_line(error: BaseException) -> str:
    return "".join(c if c.isprintable() else "?" for c in " ".join(str(error).split())[:200])


def _tensors(path: Path, key: str) -> dict[str, torch.Tensor]:
    """As `read_state`, with the names as they are in the file."""
    if not path.is_file():
        raise UserError(f"{key}={path}: no such file; give a path to safetensors or pth")
    try:
        if path.suffix == ".safetensors":
            found: Any = load_file(path)
        else:
            with torch.serialization.safe_globals([argparse.Namespace]):
                found = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, RuntimeError, ValueError, AttributeError, EOFError, OSError) as error:
        raise UserError(f"{key}={path}: not readable as weights ({one_line(error)})") from error
    except Exception as error:  # weights_only raises pickle.UnpicklingError and others for files that hold code
        raise UserError(
            f"{key}={path}: holds more than tensors and is not opened; save the network's state_dict(), best as "
            "safetensors"
        ) from error
    state = _unwrapped(found, path)
    if not state:
        kind = f"its first keys: {', '.join(repr(name) for name in list(found)[:3])}" if found else "it is empty"
        shown = kind if isinstance(found, Mapping) else f"it holds a {type(found).__name__}"
        raise UserError(f"{key}={path}: no state dict in it; {shown}")
    return state


def _unwrapped(found: Any, path: Path) -> dict[str, torch.Tensor]:
    """The innermost state dict of what a program saved; empty where there is none."""
    while isinstance(found, Mapping):
        inside = [name for name in WRAPPERS if isinstance(found.get(name), Mapping) and found[name]]
        if not inside:
            return {str(name): value for name, value in found.items() if torch.is_tensor(value)}
        if len(inside) > 1:
            log.warning("%s: holds %s; taking %s", path, " and ".join(inside), inside[0])
        found = found[inside[0]]
    return {}


def _complete(
    own: dict[str, torch.Tensor], state: dict[str, torch.Tensor], optional: tuple[str, ...]
) -> dict[str, torch.Tensor]:
    """Without the parts that are optional, and with the model's own counts of BatchNorm's batches where none are."""
    counts = {key: value for key, value in own.items() if key.endswith("num_batches_tracked")}
    return counts | {key: value for key, value in state.items() if not (optional and key.startswith(optional))}


def _misfits(
    own: dict[str, torch.Tensor], state: dict[str, torch.Tensor], optional: tuple[str, ...]
) -> dict[str, list[str]]:
    """Kind of misfit -> the names concerned."""
    expected = {key for key in own if not (optional and key.startswith(optional))}
    return {
        "lacks": sorted(expected - state.keys()),
        "has unknown": sorted(state.keys() - own.keys()),
        "has other shapes for": sorted(key for key in own.keys() & state.keys() if own[key].shape != state[key].shape),
    }


def _fits(own: dict[str, torch.Tensor], state: dict[str, torch.Tensor], optional: tuple[str, ...]) -> bool:
    return not any(_misfits(own, state, optional).values())


def _filtered(model: nn.Module, state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """What timm's checkpoint filter for this architecture makes of a state dict; unchanged where there is none."""
    convert = getattr(sys.modules[type(model).__module__], "checkpoint_filter_fn", None)
    if convert is None:
        return state
    try:
        return dict(convert(dict(state), model))
    except (KeyError, ValueError, RuntimeError, AttributeError, TypeError, IndexError):
        return state  # it met a file of another architecture; check_fit names what does not fit
