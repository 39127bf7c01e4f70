"""Pictures of explanations: overlays, contact sheets, why one class and not another."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from matplotlib import colormaps
from matplotlib.gridspec import GridSpec, SubplotSpec

from fgvc.runtime.figures import pyplot
from fgvc.runtime.sheet import Sheet

Picture = np.ndarray  # (S, S, 3) uint8
SIDE = 1.7  # inches of an image


def overlay(image: Picture, map_: np.ndarray) -> Picture:
    """A map (h, w) of 0 to 255 or to 1 over its image: warm where it is large, the bare image where it is nothing."""
    scaled = map_.astype(np.float32) / max(float(map_.max()), 1e-12)
    scaled = np.asarray(cv2.resize(scaled, image.shape[1::-1], interpolation=cv2.INTER_LINEAR), np.float32)[..., None]
    colours = colormaps["turbo"](scaled[..., 0])[..., :3] * 255
    weight = 0.15 + 0.5 * scaled
    return (image * (1 - weight) + colours * weight).round().clip(0, 255).astype(np.uint8)


def signed_overlay(image: Picture, signed: np.ndarray) -> Picture:
    """A signed (S, S) map over its image in grey: red speaks for, blue against."""
    scaled = signed / max(float(np.abs(signed).max()), 1e-12)
    grey = image.mean(2, keepdims=True).repeat(3, 2)
    colours = np.where(scaled[..., None] > 0, (220, 30, 30), (30, 70, 220))
    weight = 0.75 * np.abs(scaled)[..., None] ** 0.7
    return (grey * (1 - weight) + colours * weight).round().clip(0, 255).astype(np.uint8)


def save_overlays(path: Path, title: str, image: Picture, maps: Mapping[str, np.ndarray]) -> None:
    """An image beside its overlays by every method."""
    columns = min(len(maps) + 1, 7)
    sheet = Sheet(-(-(len(maps) + 1) // columns), columns, SIDE, title)
    shown = {"image": image} | {name: overlay(image, map_) for name, map_ in maps.items()}
    for place, (name, picture) in enumerate(shown.items()):
        row, column = divmod(place, columns)
        sheet.show(row, column, picture)
        sheet.write_above(row, column, name)
    sheet.save(path)


def contact_sheet(path: Path, title: str, rows: Mapping[str, Sequence[tuple[str, Picture]]], columns: int = 6) -> None:
    """A row of captioned pictures a name."""
    if not rows:
        return
    lines = max(caption.count("\n") + 1 for pictures in rows.values() for caption, _ in pictures)
    sheet = Sheet(len(rows), columns, SIDE, title, below=lines)
    for row, (name, pictures) in enumerate(rows.items()):
        for column, (caption, picture) in enumerate(pictures[:columns]):
            sheet.show(row, column, picture)
            sheet.write_below(row, column, caption)
        sheet.write_above(row, 0, name)
    sheet.save(path)


@dataclass(frozen=True)
class Side:
    """A class in a contrast: its name, its probability, its training images that are most alike, its parts."""

    name: str
    probability: float
    alike: Sequence[Picture]
    parts: Sequence[str]


def contrast_lines(a: Side, b: Side, differ: Sequence[str]) -> list[str]:
    """The words under a contrast."""
    lines = [
        f"{letter}  {side.name}  {side.probability:.0%}"
        + (f"; speaks most on: {', '.join(side.parts)}" if side.parts else "")
        for letter, side in (("A", a), ("B", b))
    ]
    return lines + ([f"these two differ in: {', '.join(differ)}"] if differ else [])


def contrast_picture(
    path: Path, title: str, image: Picture, signed: np.ndarray, a: Side, b: Side, differ: Sequence[str] = ()
) -> None:
    """Why a and not b: the image, what speaks for either, and beside them what each class looked like in training.

    differ: the parts that are known to tell the two apart.
    """
    columns = max(len(a.alike), len(b.alike), 1)
    figure = pyplot.figure(figsize=(6.4 + columns * 1.7, 4.5))
    widths, edges = [3.1, 3.1, *[1.7] * columns], {"left": 0.01, "right": 0.99, "top": 0.86, "bottom": 0.06}
    grid = GridSpec(2, 2 + columns, figure, width_ratios=widths, **edges, wspace=0.06, hspace=0.16)
    shown = {"the image": image, "red speaks for A, blue for B": signed_overlay(image, signed)}
    for place, (name, picture) in enumerate(shown.items()):
        axis = panel(figure, grid[:, place], picture)
        axis.set_title(name, fontsize=8)
        axis.set_anchor("N")
    for row, side, letter in ((0, a, "A"), (1, b, "B")):
        for place, picture in enumerate(side.alike):
            axis = panel(figure, grid[row, 2 + place], picture)
            if place == 0:
                axis.set_title(f"{letter} in training, most alike first", fontsize=8, loc="left")
    figure.text(0.01, 0.03, "\n".join(contrast_lines(a, b, differ)), fontsize=9, va="bottom", linespacing=1.5)
    figure.suptitle(title, fontsize=10)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def panel(figure: pyplot.Figure, place: SubplotSpec, picture: Picture) -> pyplot.Axes:
    """A picture without ticks or frame."""
    axis = figure.add_subplot(place)
    axis.axis("off")
    axis.imshow(picture)
    return axis
