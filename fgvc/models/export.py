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

KEY = "fgvc"  # the metadata's only key: safetensors writes several in random order, and a file's hash is an identity


def export(path: Path, state: dict[str, torch.Tensor], about: dict[str, Any]) -> None:
    """Write plain safetensors that timm.create_model(...).load_state_dict takes with strict=True.

    `about` (model name, classes, input size and statistics) goes into the file's metadata as JSON. Equal tensors and
    facts make equal bytes.
    """
    tensors = {key: value.detach().cpu().contiguous() for key, value in state.items()}
    write_bytes(path, save(tensors, metadata={KEY: json.dumps(about, sort_keys=True)}))


def read_about(path: Path) -> dict[str, Any]:
    """What `export` wrote beside the tensors; empty for a file that someone else made."""
    try:
        with safe_open(path, framework="pt") as stream:
            metadata = stream.metadata() or {}
        if KEY in metadata:
            about = json.loads(metadata[KEY])
            return about if isinstance(about, dict) else {}
        # Files of earlier versions have a key for each fact.
        return {key: json.loads(value) for key, value in metadata.items() if key != "format"}
    except (SafetensorError, OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: not readable as safetensors ({one_line(error)})") from None
