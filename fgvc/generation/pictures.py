"""Pictures of a GAN: a grid of every class, ways from one latent to another, images beside their nearest neighbours."""

from pathlib import Path

import torch
from torch import nn
from torchvision.utils import make_grid, save_image

from fgvc.generation.config import GanModelConfig
from fgvc.generation.draws import normals
from fgvc.generation.record import to_bytes
from fgvc.models.layers import eval_mode

GRID = 3  # stream of the pictures' latents
ROWS, COLUMNS = 8, 8


def grid_labels(classes: int, conditional: bool) -> list[int]:
    """The class of every row."""
    if not conditional or classes == 1:
        return [0] * ROWS
    count = min(ROWS, classes)
    return [round(i * (classes - 1) / max(1, count - 1)) for i in range(count)]


@torch.no_grad()
def draw_grid(path: Path, network: nn.Module, config: GanModelConfig, classes: int, device: torch.device) -> None:
    """A row a class (evenly chosen ones), the same latents in every picture of a run."""
    labels = grid_labels(classes, config.conditional)
    keys = [(GRID, row, column) for row in range(len(labels)) for column in range(COLUMNS)]
    _draw(
        path,
        network,
        config,
        normals(0, keys, config.latent),
        [label for label in labels for _ in range(COLUMNS)],
        device,
    )


@torch.no_grad()
def draw_interpolations(
    path: Path, network: nn.Module, config: GanModelConfig, classes: int, device: torch.device
) -> None:  # fmt: skip
    """A row goes from one latent to another over the sphere: smooth where a generator has not learnt single images."""
    labels, rows = grid_labels(classes, config.conditional), []
    for row in range(len(labels)):
        first, last = normals(0, [(GRID, row, 100), (GRID, row, 101)], config.latent)
        angle = torch.arccos((first @ last / (first.norm() * last.norm())).clamp(-1, 1))
        for share in torch.linspace(0, 1, COLUMNS):
            rows.append(((1 - share) * angle).sin() / angle.sin() * first + (share * angle).sin() / angle.sin() * last)
    _draw(path, network, config, torch.stack(rows), [label for label in labels for _ in range(COLUMNS)], device)


def draw_pairs(path: Path, generated: torch.Tensor, nearest: torch.Tensor) -> None:
    """Generated images (N, 3, H, W) uint8, each above the training image that is nearest to it."""
    columns = min(COLUMNS, len(generated))
    missing = generated.new_zeros(-len(generated) % columns, *generated.shape[1:])  # black, to the last row's end
    ours, theirs = (torch.cat([one, missing]).split(columns) for one in (generated, nearest))
    rows = [part for pair in zip(ours, theirs, strict=True) for part in pair]
    save_image(make_grid(torch.cat(rows).float() / 255, nrow=columns, padding=1), path)


def _draw(
    path: Path, network: nn.Module, config: GanModelConfig, latents: torch.Tensor, labels: list[int],
    device: torch.device,
) -> None:  # fmt: skip
    with eval_mode(network):
        images = [
            to_bytes(network(part.to(device), torch.tensor(labels[at : at + 16], device=device)), config).cpu()
            for at, part in zip(range(0, len(labels), 16), latents.split(16), strict=True)
        ]
    save_image(make_grid(torch.cat(images).float() / 255, nrow=COLUMNS, padding=1), path)
