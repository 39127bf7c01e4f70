"""A generator's weights file: all that is needed to make images with it, and what it was trained on."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import torch
from annotated_types import Gt, Len
from pydantic import BaseModel, StringConstraints, TypeAdapter, ValidationError
from torch import nn

from fgvc.generation.config import GanImageConfig, GanModelConfig
from fgvc.generation.networks.create import create_generator
from fgvc.models.export import export, read_about
from fgvc.models.weights import check_fit, read_state
from shards.errors import UserError

Name = Annotated[str, StringConstraints(pattern=r"^[^\x00-\x1f\x7f]{1,200}$")]


class Record(BaseModel, strict=True):
    """As `fgvc gan` writes it. classes: of its labels. crop, image: how its training images were cut out.
    trained_on: on what images (fgvc/classification/seen.py), the generator first, then its discriminator's backbone."""

    generator: dict[str, Any]
    classes: Annotated[list[Name], Len(1, 1_000_000)]
    run: Name
    crop: dict[str, Any]
    image: dict[str, Any]
    trained_on: Annotated[list[dict[str, Any] | None], Len(1)]
    steps: Annotated[int, Gt(0)]


def write_generator(path: Path, network: nn.Module, model: GanModelConfig, facts: dict[str, Any]) -> None:
    """facts: the fields of `Record` beside the generator's config."""
    export(path, network.state_dict(), facts | {"generator": asdict(model)})


def read_generator(path: Path) -> tuple[nn.Module, GanModelConfig, dict[str, Any]]:
    """The network, its config, and what the file says of itself. Raises UserError for any other file."""
    about = read_about(path)
    if "generator" not in about:
        what = "a classifier" if "classes" in about else "something else"
        raise UserError(f"weights={path}: holds {what}, no generator; give the model.safetensors of a run of fgvc gan")
    try:
        record = Record.model_validate(about)
        config = TypeAdapter(GanModelConfig).validate_python(record.generator)
        TypeAdapter(GanImageConfig).validate_python(record.image)
    except (ValidationError, ValueError, TypeError):
        raise UserError(f"weights={path}: damaged metadata; give a file that fgvc gan wrote") from None
    network = create_generator(config, len(record.classes))
    state = read_state(path, "weights")
    check_fit(network.state_dict(), state, (), f"weights={path}: does not fit its own record", "it is damaged")
    network.load_state_dict(state)
    return network.eval().requires_grad_(False), config, record.model_dump()


@torch.inference_mode()
def to_bytes(images: torch.Tensor, config: GanModelConfig) -> torch.Tensor:
    """A generator's images (N, 3, H, W) as uint8 pixels."""
    mean, std = (torch.tensor(row, device=images.device).view(3, 1, 1) for row in (config.mean, config.std))
    return ((images * std + mean) * 255).round().clamp(0, 255).to(torch.uint8)
