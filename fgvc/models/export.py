"""Weights files of ours: plain safetensors that timm loads, with what they were trained on in the metadata."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from fgvc.models.weights import one_line
from shards.errors import UserError
from shards.files import write_bytes


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
        raise UserError(f"{path}: not readable as safetensors ({one_line(error)})") from None
