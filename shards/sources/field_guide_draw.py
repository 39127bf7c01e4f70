"""Draws a field guide bird: polygons to plumage map, plumage to colour, shading, light, leaves; and its exact box."""

from dataclasses import dataclass

import cv2
import numpy as np

from shards.sample import Box
from shards.sources.field_guide_bird import Ink, Patch, Pose, beak_outline, bird_patches, colours, move, tail_outline
from shards.sources.field_guide_scene import SHIFT, Array, Scene, draw_background, draw_leaves
from shards.sources.field_guide_species import BUILDS, Build, Traits

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
    scale: float  # pixels a body length

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the region in pixels of the frame."""
        return self.inks.shape[0] // SCALE, self.inks.shape[1] // SCALE


def _fit(build: Build, scene: Scene) -> tuple[float, Array]:
    """Scale and shift from bird units to pixels: a bird of this build with any tail, beak and crest fits the frame.

    It goes by the build alone, so that relatives in one scene differ in their telling parts and nowhere else.
    """
    pose = Pose.of(build, scene)
    (x, y), r, deep = build.head_at, build.head, build.plump / 2
    feet = move(pose.body, np.array([(0.03, deep * 0.7)])) + pose.whole[:2, :2] @ [0.04, deep * 0.25 + build.legs]
    reach = [
        move(pose.tail, tail_outline(build, "wedge")),
        move(pose.head, beak_outline(build, build.beaks[-1])[0]),
        move(pose.head, np.array([(x, y - r), (x - 1.35 * r, y - 1.95 * r), (x, y + r)])),
        move(pose.body, np.array([(-0.45, -deep), (0.45, -deep), (0.5, deep), (-0.4, deep)])),
        feet + pose.whole[:2, :2] @ [0.12, 0.03],
        feet - pose.whole[:2, :2] @ [0.1, -0.03],
    ]
    points = np.concatenate(reach)
    low, high = points.min(0), points.max(0)
    frame = np.array([scene.width, scene.height])
    room = frame * (1 - 2 * MARGIN)
    scale = float(scene.share * (room / (high - low)).min())
    return scale, MARGIN * frame + np.array(scene.place) * (room - scale * (high - low)) - scale * low


def draw_bird(species: Traits, scene: Scene) -> Drawn:
    """The bird's plumage map, large, without anti-aliasing, so that every pixel is one ink."""
    patches, places, _ = bird_patches(species, scene)
    scale, shift = _fit(BUILDS[species.build], scene)
    points = np.concatenate([patch.points for patch in patches if not patch.over]) * scale + shift
    frame = np.array([scene.width, scene.height])
    low = np.clip(np.floor(points.min(0)).astype(int) - 1, 0, frame - 1)
    high = np.clip(np.ceil(points.max(0)).astype(int) + 1, low + 1, frame)
    inks = np.zeros((high - low)[::-1] * SCALE, np.uint8)
    for patch in patches:
        _fill(inks, ((patch.points * scale + shift) - low) * SCALE - 0.5, patch)
    parts = {name: point * scale + shift for name, point in places.items()}
    feet = parts.pop("feet")
    return Drawn(inks, (int(low[0]), int(low[1])), parts, feet, scale)


def _fill(inks: Array, points: Array, patch: Patch) -> None:
    """Fill one polygon, in pixels of the map, where it may lie."""
    fixed = np.rint(points * (1 << SHIFT)).astype(np.int32)
    if not patch.over:
        cv2.fillPoly(inks, [fixed], int(patch.ink), cv2.LINE_8, SHIFT)
        return
    x0, y0 = np.maximum((fixed.min(0) >> SHIFT) - 1, 0)
    x1, y1 = (fixed.max(0) >> SHIFT) + 2
    region = inks[y0 : max(y1, 0), x0 : max(x1, 0)]
    if not region.size:
        return
    stencil = np.zeros(region.shape, np.uint8)
    cv2.fillPoly(stencil, [fixed - np.array([x0, y0], np.int32) * (1 << SHIFT)], 1, cv2.LINE_8, SHIFT)
    allowed = region == patch.over[0]
    for ink in patch.over[1:]:
        allowed |= region == ink
    region[allowed & (stencil > 0)] = int(patch.ink)


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
    drawn = draw_bird(species, scene)
    (x, y), (height, width) = drawn.corner, drawn.size
    cover = _cover(drawn)
    extent = _extent(cover, drawn.corner)
    parts = drawn.parts
    if scene.leaves:
        leaves = draw_leaves(scene, extent)
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


def paint(species: Traits | None, scene: Scene, stand: Traits | None = None) -> Array:
    """The whole picture (H, W, 3 uint8, RGB). With None for a species: the same place without `stand`, the bird."""
    subject = species or stand
    assert subject is not None
    drawn = draw_bird(subject, scene)
    image = draw_background(scene, drawn.feet, drawn.scale)
    rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence((*scene.entropy, 2))))
    cover = _cover(drawn)
    (x, y), (height, width) = drawn.corner, drawn.size
    grain = rng.random((height, width), np.float32)
    if species is not None:
        region = image[y : y + height, x : x + width]
        region[:] = _composite(region, _coloured(drawn, species, scene, cover, grain), cover)
    if scene.leaves:
        draw_leaves(scene, _extent(cover, drawn.corner), image)
    return _lit(image, scene, rng)


def _coloured(drawn: Drawn, species: Traits, scene: Scene, cover: Array, grain: Array) -> Array:
    """The shaded bird (h, w, 3 float32), already multiplied by how much of each pixel it covers."""
    table = colours(species).astype(np.float32) * np.array(scene.tint, np.float32)
    table = np.clip(np.rint(table), 0, 255).astype(np.uint8)
    flat = cv2.resize(
        cv2.applyColorMap(drawn.inks, np.ascontiguousarray(table[:, None])),
        drawn.size[::-1],
        interpolation=cv2.INTER_AREA,
    )
    # A blurred silhouette is the height of a plump body: its slope towards the sun is the light it gets.
    blur = max(3, int(drawn.scale * 0.2) * 2 + 1)
    height_map = cv2.GaussianBlur(cv2.copyMakeBorder(cover, 1, 1, 1, 1, cv2.BORDER_REPLICATE), (blur, blur), 0)
    solid = height_map.astype(np.float32)
    angle = np.radians(scene.sun)
    slope_x = (solid[1:-1, 2:] - solid[1:-1, :-2]) * np.float32(-np.cos(angle))
    slope_y = (solid[2:, 1:-1] - solid[:-2, 1:-1]) * np.float32(-np.sin(angle))
    slope = (slope_x + slope_y) * np.float32(scene.contrast * blur / 255 * 1.1)
    shade = 1 + np.clip(slope, -0.42, 0.36) + (grain - np.float32(0.5)) * np.float32(0.09)
    return flat * shade[..., None]


def _composite(under: Array, bird: Array, cover: Array) -> Array:
    rest = (255 - cover).astype(np.float32) * np.float32(1 / 255)
    return np.clip(np.rint(under * rest[..., None] + bird), 0, 255).astype(np.uint8)


def _lit(image: Array, scene: Scene, rng: np.random.Generator) -> Array:
    """The picture in the scene's light: its colour, and a slow fall-off away from the sun."""
    height, width = image.shape[:2]
    angle = np.radians(scene.sun)
    across = np.linspace(-0.5, 0.5, width, dtype=np.float32) * np.float32(np.cos(angle))
    along = np.linspace(-0.5, 0.5, height, dtype=np.float32)[:, None] * np.float32(np.sin(angle))
    gain = 1 + (across + along) * np.float32(scene.contrast)
    gain = gain + (rng.random((height, width), np.float32) - np.float32(0.5)) * np.float32(0.05)
    lit = image * (gain[..., None] * np.array(scene.light, np.float32))
    return np.clip(np.rint(lit), 0, 255).astype(np.uint8)


def encode(image: Array, quality: int = 92) -> bytes:
    """RGB pixels as JPEG bytes, colour at full resolution: markings here are a few pixels wide."""
    flags = [cv2.IMWRITE_JPEG_QUALITY, quality, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]
    done, data = cv2.imencode(".jpg", image[..., ::-1], flags)
    assert done
    return data.tobytes()


__all__ = ["Drawn", "Ink", "annotate", "draw_bird", "encode", "paint"]
