"""A field guide bird in one pose: its shapes put together from back to front, its parts' places, its colours."""

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from shards.sources.field_guide.scene import Array, Scene
from shards.sources.field_guide.shapes import (
    Ink,
    Patch,
    beak_outline,
    body_patches,
    head_patches,
    leg_length,
    leg_patches,
    tail_outline,
    tail_patches,
)
from shards.sources.field_guide.species import BUILDS, INKS, PALETTES, RGB, Build, Traits


def turn(angle: float, about: tuple[float, float] = (0.0, 0.0), stretch: tuple[float, float] = (1.0, 1.0)) -> Array:
    """A 3x3 map: stretch, then rotate by `angle` degrees, both about a point."""
    c, s = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    x, y = about
    linear = np.array([[c * stretch[0], -s * stretch[1]], [s * stretch[0], c * stretch[1]]])
    shift = np.array([x, y]) - linear @ [x, y]
    return np.array([[*linear[0], shift[0]], [*linear[1], shift[1]], [0, 0, 1]])


def move(transform: Array, points: Array) -> Array:
    """Apply a 3x3 map to points (N, 2)."""
    return points @ transform[:2, :2].T + transform[:2, 2]


@dataclass(frozen=True)
class Pose:
    """The maps from a part's own drawing to the bird's (body length 1, y down, facing right unless mirrored)."""

    whole: Array
    body: Array
    head: Array
    tail: Array

    @classmethod
    def of(cls, build: Build, scene: Scene) -> "Pose":
        """A build in a scene. Nothing here depends on a species' own traits, so that relatives pose alike."""
        whole = turn(scene.roll) @ np.diag([-1.0 if scene.mirrored else 1.0, 1.0, 1.0])
        body = whole @ turn(build.pitch + scene.pitch)
        yaw = -scene.head_yaw if scene.looks_back else scene.head_yaw
        # The head stays level whatever the body does, as a bird's does.
        level = turn(scene.head_pitch - 0.75 * (build.pitch + scene.pitch), build.head_at)
        head = body @ level @ turn(0, build.head_at, (yaw, 1.0))
        tail = body @ turn(build.raise_ + scene.tail_raise, (-0.4, 0.0))
        return cls(whole, body, head, tail)

    def hips(self, build: Build) -> Array:
        """Where the far and the near leg leave the body (2, 2)."""
        return move(self.body, np.array([(-0.02, build.plump * 0.375), (0.09, build.plump * 0.35)]))


@dataclass(frozen=True)
class Shape:
    """A species' polygons from back to front, flat, so that a pose is a few matrix products.

    points: (N, 2), each in its part's frame. frames: name and slice of each run of points. patches: ink, over, slices
    of the rings. starts: where each patch's points begin. solid: (N,) what can be the bird's outline.
    """

    points: Array
    frames: tuple[tuple[str, slice], ...]
    patches: tuple[tuple[Patch, tuple[slice, ...]], ...]
    starts: Array
    solid: Array


@lru_cache(maxsize=256)
def shape_of(species: Traits) -> Shape:
    """The shape of a species, the same in every pose."""
    build = BUILDS[species.build]
    groups = [("tail", tail_patches(build, species)), ("hip0", leg_patches(build)), ("hip1", leg_patches(build))]
    groups += [("body", body_patches(build, species)), ("head", head_patches(build, species))]
    rings: list[Array] = []
    frames, patches, starts, solid, at = [], [], [], [], 0
    for name, group in groups:
        begin = at
        for patch in group:
            starts.append(at)
            slices = []
            for ring in patch.rings:
                rings.append(ring)
                slices.append(slice(at, at + len(ring)))
                solid += [not patch.over] * len(ring)
                at += len(ring)
            patches.append((patch, tuple(slices)))
        frames.append((name, slice(begin, at)))
    return Shape(np.concatenate(rings), tuple(frames), tuple(patches), np.array(starts), np.array(solid))


@lru_cache(maxsize=256)
def colours(species: Traits) -> Array:
    """The colour of every ink (256, 3 uint8); NONE is black, so a drawing comes out multiplied by its own mask."""
    palette = PALETTES[species.palette]

    def ink(slot: str) -> RGB:
        return INKS.get(getattr(species, slot).split()[0], palette.head)

    def shade(colour: RGB, by: float) -> RGB:
        return (min(255, int(colour[0] * by)), min(255, int(colour[1] * by)), min(255, int(colour[2] * by)))

    horn = {"black": (46, 44, 48), "yellow": (236, 176, 40), "red": (208, 62, 40), "white": (222, 210, 190)}
    beak = horn[species.beak.split()[0]]
    table = {
        Ink.BACK: palette.back, Ink.UNDER: palette.under, Ink.HEAD: palette.head,
        Ink.THROAT: shade(palette.under, 1.03),
        Ink.WING: palette.wing, Ink.WING_EDGE: shade(palette.wing, 0.6), Ink.FLIGHT: shade(palette.wing, 0.74),
        Ink.FEATHER: shade(palette.wing, 1.35), Ink.BAR: ink("wing"), Ink.TAIL: shade(palette.wing, 0.9),
        Ink.TAIL_MARK: ink("tail"), Ink.TAIL_LINE: shade(palette.wing, 0.62), Ink.LEG: palette.legs,
        Ink.BEAK: beak, Ink.BEAK_LINE: shade(beak, 0.5),
        Ink.CROWN: ink("crown"), Ink.FACE: ink("eye"), Ink.BREAST: ink("breast"), Ink.VENT: ink("belly"),
        Ink.EYE: (20, 16, 16), Ink.EYE_RIM: shade(palette.head, 0.55), Ink.GLINT: (250, 250, 250),
    }  # fmt: skip
    lut = np.zeros((256, 3), np.uint8)
    for key, colour in table.items():
        lut[key] = colour
    return lut


@dataclass(frozen=True)
class Posed:
    """A bird in bird units: its shape's points (N, 2) where the pose puts them, its parts' places and its feet's."""

    shape: Shape
    points: Array
    parts: dict[str, Array]
    feet: Array


def pose_bird(species: Traits, scene: Scene) -> Posed:
    """Put a species' shape into a scene's pose. Parts are called as in CUB, without its left and right."""
    build, shape = BUILDS[species.build], shape_of(species)
    pose = Pose.of(build, scene)
    hips = pose.hips(build)
    upright = [np.concatenate([np.c_[pose.whole[:2, :2], hip], [[0, 0, 1]]]) for hip in hips]
    maps = {"tail": pose.tail, "hip0": upright[0], "hip1": upright[1], "body": pose.body, "head": pose.head}
    points = np.concatenate([move(maps[name], shape.points[where]) for name, where in shape.frames])
    (x, y), r, deep = build.head_at, build.head, build.plump / 2
    beak = beak_outline(build, species.beak.split()[1])[0].mean(0)
    tail_end = tail_outline(build, species.tail.split()[1])[:, 0].min()
    places = {
        "head": {
            "beak": beak,
            "crown": (x, y - 0.7 * r),
            "eye": (x + 0.36 * r, y - 0.1 * r),
            "nape": (x - 0.75 * r, y + 0.1 * r),
            "throat": (x + 0.5 * r, y + 0.65 * r),
        },
        "body": {
            "breast": (0.34, 0.35 * deep),
            "belly": (-0.05, 0.8 * deep),
            "back": (-0.15, -0.75 * deep),
            "wing": (-0.1, 0.0),
        },
        "tail": {"tail": (0.5 * (tail_end - 0.45), 0.0)},
        "hip0": {"legs": (0.02, leg_length(build) / 2)},
    }
    parts = {
        name: move(maps[frame], np.array([place]))[0]
        for frame, places in places.items()
        for name, place in places.items()
    }
    return Posed(shape, points, parts, hips.mean(0) + pose.whole[:2, :2] @ [0.04, leg_length(build)])


def fit(build: Build, scene: Scene, margin: float) -> tuple[float, Array, Array]:
    """Scale and shift from bird units to pixels, and the room taken (4,), xyxy pixels.

    A bird of this build with any tail, beak and crest fits that room. It goes by the build alone, so that relatives in
    one scene differ in their telling parts and nowhere else.
    """
    pose = Pose.of(build, scene)
    (x, y), r, deep = build.head_at, build.head, build.plump / 2
    feet = pose.hips(build) + pose.whole[:2, :2] @ [0.04, leg_length(build)]
    points = np.concatenate(
        [
            move(pose.tail, tail_outline(build, "wedge")),
            move(pose.head, beak_outline(build, build.beaks[-1])[0]),
            move(pose.head, np.array([(x, y - r), (x - 1.3 * r, y - 1.5 * r), (x, y + r)])),
            move(pose.body, np.array([(-0.45, -deep), (0.45, -deep), (0.5, deep), (-0.4, deep)])),
            feet + pose.whole[:2, :2] @ [0.1, 0.03],
            feet - pose.whole[:2, :2] @ [0.1, -0.03],
        ]
    )
    low, high = points.min(0), points.max(0)
    frame = np.array([scene.width, scene.height])
    room = frame * (1 - 2 * margin)
    scale = float(scene.share * (room / (high - low)).min())
    corner = margin * frame + np.array(scene.place) * (room - scale * (high - low))
    return scale, corner - scale * low, np.concatenate([corner, corner + scale * (high - low)])
