"""Draws a field guide bird: polygons to plumage map, plumage to colour, shading, light, leaves; and its exact box."""

import math
from collections.abc import Collection
from dataclasses import dataclass, replace

import cv2
import numpy as np

from shards.sample import Box
from shards.sources.field_guide.bird import colours, fit, pose_bird
from shards.sources.field_guide.scene import SHIFT, Array, Scene, draw_background, draw_leaves
from shards.sources.field_guide.shapes import Ink, Patch
from shards.sources.field_guide.species import BUILDS, Traits

SCALE = 3  # drawn at this many times the size, then averaged: that is the anti-aliasing
VISIBLE = 64  # of 255: how much of a pixel the bird must cover to count as visible
MARGIN = 0.02


@dataclass(frozen=True)
class Drawn:
    """A bird on its frame. inks (SCALE h, SCALE w): the plumage of a region whose upper left pixel is `corner`."""

    inks: Array
    corner: tuple[int, int]
    parts: dict[str, Array]  # pixels of the frame
    feet: Array
    room: Array  # (4,) xyxy pixels: what any relative would need
    scale: float  # pixels a body length

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the region in pixels of the frame."""
        return self.inks.shape[0] // SCALE, self.inks.shape[1] // SCALE


def draw_bird(species: Traits, scene: Scene, markings: bool = True, without: Collection[Ink] = ()) -> Drawn:
    """The bird's plumage map, large, without anti-aliasing, so that every pixel is one ink.

    Without markings it has the same outline in half the time. without: inks that are not laid on.
    """
    bird = pose_bird(species, scene)
    scale, shift, room = fit(BUILDS[species.build], scene, MARGIN)
    points = bird.points * scale + shift
    outline = points[bird.shape.solid]
    frame = np.array([scene.width, scene.height])
    low = np.clip(np.floor(outline.min(0)).astype(int) - 1, 0, frame - 1)
    high = np.clip(np.ceil(outline.max(0)).astype(int) + 1, low + 1, frame)
    inks = np.zeros((high - low)[::-1] * SCALE, np.uint8)
    fixed = np.rint(((points - low) * SCALE - 0.5) * (1 << SHIFT)).astype(np.int32)
    starts = np.maximum((np.minimum.reduceat(fixed, bird.shape.starts) >> SHIFT) - 1, 0)
    ends = np.maximum((np.maximum.reduceat(fixed, bird.shape.starts) >> SHIFT) + 2, 0)
    for (patch, rings), (x0, y0), (x1, y1) in zip(bird.shape.patches, starts.tolist(), ends.tolist(), strict=True):
        if patch.ink in without:
            continue
        polygons = [fixed[ring] for ring in rings]
        if patch.over and markings:
            _fill_over(inks[y0:y1, x0:x1], polygons, (x0, y0), patch)
        elif not patch.over:
            cv2.fillPoly(inks, polygons, int(patch.ink), cv2.LINE_8, SHIFT)
    parts = {name: point * scale + shift for name, point in bird.parts.items()}
    return Drawn(inks, (int(low[0]), int(low[1])), parts, bird.feet * scale + shift, room, scale)


def _fill_over(region: Array, polygons: list[Array], corner: tuple[int, int], patch: Patch) -> None:
    """Fill polygons where the patch may lie, in place, in the region of the map that starts at a corner."""
    if not region.size:
        return
    stencil = np.zeros(region.shape, np.uint8)
    offset = (-corner[0] << SHIFT, -corner[1] << SHIFT)
    cv2.fillPoly(stencil, [polygon + np.array(offset, np.int32) for polygon in polygons], 1, cv2.LINE_8, SHIFT)
    allowed = cv2.inRange(region, int(patch.over[0]), int(patch.over[0]))
    for ink in patch.over[1:]:
        cv2.bitwise_or(allowed, cv2.inRange(region, int(ink), int(ink)), allowed)
    cv2.bitwise_and(allowed, stencil, allowed)
    np.copyto(region, np.uint8(patch.ink), where=allowed.view(bool))


def _cover(drawn: Drawn) -> Array:
    """How much of every pixel of the region is bird (h, w uint8)."""
    solid = cv2.threshold(drawn.inks, 0, 255, cv2.THRESH_BINARY)[1]
    return cv2.resize(solid, drawn.size[::-1], interpolation=cv2.INTER_AREA)


def _extent(cover: Array, corner: tuple[int, int]) -> Array:
    seen = cover >= VISIBLE
    ys, xs = np.flatnonzero(seen.any(1)), np.flatnonzero(seen.any(0))
    if not len(ys):
        return np.array([*corner, corner[0] + cover.shape[1], corner[1] + cover.shape[0]])
    return np.array([corner[0] + xs[0], corner[1] + ys[0], corner[0] + xs[-1] + 1, corner[1] + ys[-1] + 1])


def annotate(species: Traits, scene: Scene) -> tuple[Box, dict[str, tuple[float, float]]]:
    """The box around the bird's visible pixels, and the parts that no leaf hides, without drawing the picture."""
    drawn = draw_bird(species, scene, markings=False)
    (x, y), (height, width) = drawn.corner, drawn.size
    cover = _cover(drawn)
    extent = _extent(cover, drawn.corner)
    parts = drawn.parts
    if scene.leaves:
        leaves = draw_leaves(scene, drawn.room)
        cover = cv2.multiply(cover, 255 - leaves[y : y + height, x : x + width], scale=1 / 255)
        extent = _extent(cover, drawn.corner)
        parts = {name: p for name, p in parts.items() if leaves[_pixel(p, leaves.shape)] < 128}
    x0, y0, x1, y1 = (float(v) for v in extent)
    inside = {
        name: (round(min(max(float(p[0]), x0), x1 - 0.1), 1), round(min(max(float(p[1]), y0), y1 - 0.1), 1))
        for name, p in parts.items()
    }
    return (x0, y0, x1, y1), inside


def _pixel(point: Array, shape: tuple[int, ...]) -> tuple[int, int]:
    return min(max(int(point[1]), 0), shape[0] - 1), min(max(int(point[0]), 0), shape[1] - 1)


def paint(
    species: Traits, scene: Scene, bird: bool = True, inks: Array | None = None, without: Collection[str] = ()
) -> Array:
    """The whole picture (H, W, 3 uint8, RGB), or the same place once the bird has flown.

    inks: instead of the bird's plumage map, so that a part can be missing in the same light; where it has no ink, what
    is behind shows. without: things around the bird to leave out, as `draw_background` and `draw_leaves` name them.
    """
    drawn = draw_bird(species, scene)
    image = draw_background(scene, drawn.feet, drawn.scale, without)
    rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence((*scene.entropy, 2))))
    cover = _cover(drawn)
    (x, y), (height, width) = drawn.corner, drawn.size
    # Grain goes by the frame, not by the bird, so that relatives share it.
    grain = rng.random(image.shape[:2], np.float32)[y : y + height, x : x + width]
    if bird:
        region = image[y : y + height, x : x + width]
        shown = drawn if inks is None else replace(drawn, inks=inks)
        region[:] = _composite(region, _coloured(shown, species, scene, cover, grain), _cover(shown))
    if scene.leaves:
        draw_leaves(scene, drawn.room, image, without)
    return _lit(image, scene, rng)


def _coloured(drawn: Drawn, species: Traits, scene: Scene, cover: Array, grain: Array) -> Array:
    """The shaded bird (h, w, 3 float32), already multiplied by how much of each pixel it covers.

    cover: (h, w) of the whole bird, whose shape gives the shading.
    """
    table = colours(species).astype(np.float32) * np.array(scene.tint, np.float32)
    table = np.clip(np.rint(table), 0, 255).astype(np.uint8)
    flat = cv2.resize(
        cv2.applyColorMap(drawn.inks, np.ascontiguousarray(table[:, None])),
        drawn.size[::-1],
        interpolation=cv2.INTER_AREA,
    )
    # A blurred silhouette is the height of a plump body: its slope towards the sun is the light it gets.
    blur = max(3, int(drawn.scale * 0.2) * 2 + 1)
    padded = cv2.copyMakeBorder(cover, 1, 1, 1, 1, cv2.BORDER_REPLICATE).astype(np.uint16) * 257
    solid = cv2.GaussianBlur(padded, (blur, blur), 0).astype(np.float32)
    angle = math.radians(scene.sun)
    slope_x = (solid[1:-1, 2:] - solid[1:-1, :-2]) * np.float32(-math.cos(angle))
    slope_y = (solid[2:, 1:-1] - solid[:-2, 1:-1]) * np.float32(-math.sin(angle))
    slope = (slope_x + slope_y) * np.float32(scene.contrast * blur / 65535 * 1.1)
    shade = 1 + np.clip(slope, -0.42, 0.36) + (grain - np.float32(0.5)) * np.float32(0.09)
    return flat * shade[..., None]


def _composite(under: Array, bird: Array, cover: Array) -> Array:
    rest = (255 - cover).astype(np.float32) * np.float32(1 / 255)
    return np.clip(np.rint(under * rest[..., None] + bird), 0, 255).astype(np.uint8)


def _lit(image: Array, scene: Scene, rng: np.random.Generator) -> Array:
    """The picture in the scene's light: its colour, and a slow fall-off away from the sun."""
    height, width = image.shape[:2]
    angle = math.radians(scene.sun)
    across = np.linspace(-0.5, 0.5, width, dtype=np.float32) * np.float32(math.cos(angle))
    along = np.linspace(-0.5, 0.5, height, dtype=np.float32)[:, None] * np.float32(math.sin(angle))
    gain = 1 + (across + along) * np.float32(scene.contrast)
    gain = gain + (rng.random((height, width), np.float32) - np.float32(0.5)) * np.float32(0.05)
    return cv2.multiply(image, gain[..., None] * np.array(scene.light, np.float32), dtype=cv2.CV_8U)


def encode(image: Array, quality: int = 92) -> bytes:
    """RGB pixels as JPEG bytes, colour at full resolution: markings here are a few pixels wide."""
    flags = [cv2.IMWRITE_JPEG_QUALITY, quality, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]
    done, data = cv2.imencode(".jpg", image[..., ::-1], flags)
    assert done
    return data.tobytes()
