"""The shapes of a field guide bird: outlines and markings as polygons of plumage, each in its own part's frame."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum

import cv2
import numpy as np

from shards.sources.field_guide.scene import Array, ellipse, ribbon
from shards.sources.field_guide.species import Build, Traits

Frame = Callable[..., Array]  # points in units of a part to points of the bird


class Ink(IntEnum):
    """What a pixel of the bird is; NONE is not the bird."""

    NONE = 0
    BACK = 1
    UNDER = 2
    HEAD = 3
    THROAT = 4
    WING = 5
    WING_EDGE = 6
    FLIGHT = 7
    FEATHER = 8
    BAR = 9
    TAIL = 10
    TAIL_MARK = 11
    TAIL_LINE = 12
    LEG = 13
    BEAK = 14
    BEAK_LINE = 15
    CROWN = 16
    FACE = 17
    BREAST = 18
    VENT = 19
    EYE = 20
    EYE_RIM = 21
    GLINT = 22


@dataclass(frozen=True)
class Patch:
    """Polygons (N, 2) to fill with an ink, only where `over` (if any) lies. Body length 1, y down, facing right."""

    ink: Ink
    rings: tuple[Array, ...]
    over: tuple[Ink, ...] = ()

    @classmethod
    def one(cls, points: Array, ink: Ink, over: tuple[Ink, ...] = ()) -> "Patch":
        """A patch of a single polygon."""
        return cls(ink, (points,), over)


def smooth(points: Array, rounds: int = 2) -> Array:
    """Round a closed polygon's corners by Chaikin's corner cutting."""
    curve = points
    for _ in range(rounds):
        ahead = np.roll(curve, -1, axis=0)
        curve = np.stack([0.75 * curve + 0.25 * ahead, 0.25 * curve + 0.75 * ahead], 1).reshape(-1, 2)
    return curve


def tail_outline(build: Build, shape: str) -> Array:
    """The tail, pointing left from the rump."""
    long = build.tail * {"square": 1.0, "fork": 1.3, "wedge": 1.6, "fan": 1.0}[shape]
    root, end = -0.34, -0.4 - long
    if shape == "fork":
        half, notch = 0.17, end + 0.52 * long
        return np.array([(root, -0.09), (end, -half), (notch, 0.0), (end, half), (root, 0.09)])
    if shape == "wedge":
        tip = [(end + 0.28 * long, -0.085), (end, 0.0), (end + 0.28 * long, 0.085)]
        return np.array([(root, -0.09), *tip, (root, 0.09)])
    half = 0.27 if shape == "fan" else 0.1
    bulge = 0.12 if shape == "fan" else 0.02
    tip = [(end - bulge * math.cos(t * 1.4), half * math.sin(t * 1.4) / math.sin(1.4)) for t in (-1, -0.5, 0, 0.5, 1)]
    return np.array([(root, -0.09), *tip, (root, 0.09)])


def beak_outline(build: Build, shape: str) -> tuple[Array, Array]:
    """The beak and the line where it opens, pointing right from the head."""
    x, y = build.head_at[0] + build.head * 0.82, build.head_at[1] + build.head * 0.12
    long = build.beak * {"cone": 0.95, "hook": 1.05, "needle": 0.95, "curve": 1.45, "dagger": 1.5}[shape]
    deep = {"cone": 0.105, "hook": 0.07, "needle": 0.035, "curve": 0.045, "dagger": 0.062}[shape] * build.head / 0.21
    drop = {"cone": 0.03, "hook": 0.0, "needle": 0.0, "curve": 0.17, "dagger": 0.0}[shape]
    ts = np.linspace(0, 1, 7)
    middle = np.stack([x + long * ts, y + drop * ts**2], 1)
    depth = deep * (1 - ts**1.5) if shape != "cone" else deep * (1 - ts)
    outline = np.concatenate(
        [middle - np.stack([0 * ts, depth], 1), (middle + np.stack([0 * ts, depth * 0.8], 1))[::-1]]
    )
    if shape == "hook":
        hook = [
            (x + long * 0.7, y - deep * 0.62),
            (x + long * 1.02, y - deep * 0.1),
            (x + long * 0.98, y + deep * 1.25),
        ]
        outline = np.concatenate([outline[:5], np.array(hook), [(x + long * 0.8, y + deep * 0.2)], outline[9:]])
    return outline, ribbon(middle[:6], 0.011)


def _crown(at: Frame, shape: str) -> list[Patch]:
    if shape == "plain":
        return []
    cap = at((1.2, -0.12), (0.6, -0.3), (-0.1, -0.36), (-0.75, -0.12), (-1.3, 0.3), (-1.3, -1.3), (1.2, -1.3))
    patches = [Patch.one(cap, Ink.CROWN, (Ink.HEAD,))]
    if shape == "crest":
        crest = at((0.7, -0.65), (0.2, -1.05), (-0.45, -1.3), (-1.3, -1.6), (-1.0, -0.95), (-0.85, -0.4), (0, -0.4))
        patches.append(Patch.one(smooth(crest, 1), Ink.CROWN))
    return patches


def _face(at: Frame, r: float, shape: str) -> list[Patch]:
    face, all_over = (Ink.HEAD, Ink.THROAT), (Ink.HEAD, Ink.THROAT, Ink.CROWN)
    if shape == "mask":
        mask = smooth(at((1.0, 0.1), (0.5, -0.38), (-0.1, -0.36), (-0.98, 0.05), (-0.5, 0.42), (0.3, 0.34)), 1)
        return [Patch.one(mask, Ink.FACE, all_over)]
    if shape == "brow":
        brow = at((0.95, -0.2), (0.45, -0.42), (-0.1, -0.45), (-0.95, -0.12))
        return [Patch.one(ribbon(brow, r * np.array([0.14, 0.27, 0.29, 0.16])), Ink.FACE, all_over)]
    if shape == "stripe":
        line = at((1.0, 0.1), (0.4, -0.1), (-0.2, -0.06), (-1.0, 0.16))
        return [Patch.one(ribbon(line, r * np.array([0.2, 0.24, 0.26, 0.2])), Ink.FACE, face)]
    (x, y), ring = at((0.36, -0.1))[0], r * 0.4
    return [Patch.one(ellipse(x, y, ring, ring), Ink.FACE)] if shape == "ring" else []


def head_patches(build: Build, species: Traits) -> list[Patch]:
    """The head's markings over its circle, in the head's own frame (facing right)."""
    (x, y), r = build.head_at, build.head

    def at(*points: tuple[float, float]) -> Array:
        return np.array(points) * r + [x, y]

    throat = at((1.3, 0.2), (0.4, 0.28), (-0.1, 0.6), (-0.5, 1.2), (1.3, 1.2))
    beak, gape = beak_outline(build, species.beak.split()[1])
    eye_x, eye_y = at((0.36, -0.1))[0]
    return [
        Patch.one(ellipse(x, y, r, r * 0.96, count=28), Ink.HEAD),
        Patch.one(throat, Ink.THROAT, (Ink.HEAD,)),
        *_crown(at, species.crown.split()[-1]),
        *_face(at, r, species.eye.split()[-1]),
        Patch.one(beak, Ink.BEAK),
        Patch.one(gape, Ink.BEAK_LINE, (Ink.BEAK,)),
        Patch.one(ellipse(eye_x, eye_y, r * 0.225, r * 0.225), Ink.EYE_RIM),
        Patch.one(ellipse(eye_x, eye_y, r * 0.18, r * 0.18), Ink.EYE),
        Patch.one(ellipse(eye_x + r * 0.06, eye_y - r * 0.07, r * 0.06, r * 0.06, count=8), Ink.GLINT),
    ]


def body_patches(build: Build, species: Traits) -> list[Patch]:
    """Torso, neck, underparts, breast, belly and wing, in the body's frame."""
    deep = build.plump / 2
    (x, y), r = build.head_at, build.head
    turns = [2 * math.pi * i / 36 for i in range(36)]
    rear = [max(0.0, -math.cos(t)) ** 1.4 for t in turns]
    torso = [
        (0.5 * math.cos(t), deep * math.sin(t) * (1 - 0.45 * k) - 0.02 * k) for t, k in zip(turns, rear, strict=True)
    ]
    # The neck joins head and chest: both circles' common outline.
    rim = np.concatenate([ellipse(x - 0.02, y, r * 0.92, r * 0.9), ellipse(0.17, -0.02, 0.31, deep * 0.92)])
    neck = cv2.convexHull(rim.astype(np.float32))[:, 0].astype(float)
    throat = [(x + 0.3, y), (x - 0.02, y + 0.14), (0.2, 0.02)]
    under = np.array([*throat, (-0.1, deep * 0.42), (-0.46, 0.02), (-0.7, 0.5), (0, 0.8), (0.9, 0.6)])
    patches = [
        Patch.one(np.array(torso), Ink.BACK),
        Patch.one(neck, Ink.BACK),
        Patch.one(smooth(under, 1), Ink.UNDER, (Ink.BACK,)),
    ]
    if species.belly != "plain":
        vent = ellipse(-0.27, deep * 0.85, 0.32, deep * 0.78, -14)
        patches.append(Patch.one(vent, Ink.VENT, (Ink.UNDER,)))
    return patches + _breast(species.breast.split()[-1], deep) + _wing(species.wing.split()[-1], deep)


def _breast(shape: str, deep: float) -> list[Patch]:
    k, over = deep / 0.28, (Ink.UNDER,)
    if shape == "bib":
        return [Patch.one(ellipse(0.36, 0.06 * k, 0.25, 0.25 * k), Ink.BREAST, over)]
    if shape == "band":
        band = np.array([(0.62, -0.02), (0.42, 0.0), (0.26, 0.08), (0.14, 0.2), (0.1, 0.34)]) * [1, k]
        return [Patch.one(ribbon(band, 0.1), Ink.BREAST, over)]
    columns = enumerate((0.44, 0.34, 0.24, 0.14, 0.04, -0.06))
    rows = [(x, deep * (y + 0.12 * (j % 2))) for j, x in columns for y in (-0.12, 0.14, 0.4, 0.66, 0.9)]
    if shape == "spots":
        return [Patch(Ink.BREAST, tuple(ellipse(x, y, 0.031, 0.031, count=8) for x, y in rows), over)]
    if shape == "streaks":
        return [Patch(Ink.BREAST, tuple(ellipse(x, y, 0.049, 0.019, 8, count=8) for x, y in rows), over)]
    return []


def _wing(shape: str, deep: float) -> list[Patch]:
    stretch = np.array([1, deep / 0.28])
    upper = [(0.3, -0.06), (0.2, -0.17), (-0.1, -0.17), (-0.42, -0.1), (-0.7, 0.0)]
    wing = smooth(np.array([*upper, (-0.4, 0.09), (-0.05, 0.17), (0.2, 0.12)]) * stretch)
    centre = wing.mean(0)
    flight = np.array([(-0.06, 0.25), (-0.12, 0.06), (-0.3, -0.04), (-0.8, -0.06), (-0.8, 0.3)]) * stretch
    feathers = [[(-0.1, 0.1), (-0.62, 0.02)], [(-0.16, 0.03), (-0.66, -0.01)], [(-0.08, 0.145), (-0.46, 0.075)]]
    patches = [
        Patch.one((wing - centre) * 1.045 + centre, Ink.WING_EDGE),
        Patch.one(wing, Ink.WING),
        Patch.one(flight, Ink.FLIGHT, (Ink.WING,)),
        Patch(Ink.FEATHER, tuple(ribbon(np.array(line) * stretch, 0.014) for line in feathers), (Ink.FLIGHT,)),
    ]
    over = (Ink.WING, Ink.FLIGHT, Ink.FEATHER)
    for x in {"bar": (0.02,), "bars": (0.13, -0.08)}.get(shape, ()):
        line = np.array([(x + 0.03, -0.22), (x - 0.02, -0.05), (x - 0.01, 0.08), (x + 0.04, 0.22)]) * stretch
        patches.append(Patch.one(ribbon(line, 0.08 if shape == "bars" else 0.1), Ink.BAR, over))
    if shape == "patch":
        patches.append(Patch.one(ellipse(-0.14, 0.03 * stretch[1], 0.19, 0.085 * stretch[1], 6), Ink.BAR, over))
    return patches


def tail_patches(build: Build, species: Traits) -> list[Patch]:
    """The tail, its marked end and the lines between its feathers, in the tail's frame."""
    ink, shape = species.tail.split()
    outline = tail_outline(build, shape)
    end, half = outline[:, 0].min(), abs(outline[:, 1]).max()
    patches = [Patch.one(outline, Ink.TAIL)]
    if ink != "plain":
        tip = np.array([(end + 0.18, -1), (end - 0.2, -1), (end - 0.2, 1), (end + 0.18, 1)])
        patches.append(Patch.one(tip, Ink.TAIL_MARK, (Ink.TAIL,)))
    lines = [np.array([(-0.4, 0.08 * side), (end + 0.03, half * side)]) for side in (-0.5, 0.0, 0.5)]
    over = (Ink.TAIL, Ink.TAIL_MARK)
    return [*patches, *(Patch.one(ribbon(line, 0.012), Ink.TAIL_LINE, over) for line in lines)]


def leg_patches(build: Build) -> list[Patch]:
    """One leg with its foot, down from the hip, in a frame that the body's angle does not turn."""
    foot = (0.04, leg_length(build))
    leg = ribbon(np.array([(0.0, 0.0), foot]), 0.034)
    toes = ribbon(np.array([(foot[0] - 0.055, foot[1]), (foot[0] + 0.09, foot[1])]), 0.03)
    return [Patch.one(leg, Ink.LEG), Patch.one(toes, Ink.LEG)]


def leg_length(build: Build) -> float:
    """From hip to foot."""
    return build.plump / 8 + build.legs
