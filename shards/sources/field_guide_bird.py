"""The shape of a field guide bird: its outlines and markings, as polygons of plumage, for one species in one pose."""

import math
from dataclasses import dataclass
from enum import IntEnum

import numpy as np

from shards.sources.field_guide_scene import Array, Scene, ellipse, ribbon
from shards.sources.field_guide_species import BUILDS, INKS, PALETTES, RGB, Build, Traits


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
    """A polygon (N, 2) to fill with an ink, only where `over` (if any) lies."""

    points: Array
    ink: Ink
    over: tuple[Ink, ...] = ()


def smooth(points: list[tuple[float, float]], rounds: int = 2) -> Array:
    """Round a closed polygon's corners by Chaikin's corner cutting."""
    curve = np.array(points, float)
    for _ in range(rounds):
        ahead = np.roll(curve, -1, axis=0)
        curve = np.stack([0.75 * curve + 0.25 * ahead, 0.25 * curve + 0.75 * ahead], 1).reshape(-1, 2)
    return curve


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


def tail_outline(build: Build, shape: str) -> Array:
    """The tail, pointing left from the rump."""
    long = build.tail * {"square": 1.0, "fork": 1.3, "wedge": 1.65, "fan": 1.0}[shape]
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


def head_patches(build: Build, species: Traits) -> list[Patch]:
    """The head's markings over its circle, in the head's own frame (facing right)."""
    (x, y), r = build.head_at, build.head

    def at(points: list[tuple[float, float]]) -> Array:
        return np.array(points) * r + [x, y]

    face, skin = (Ink.HEAD, Ink.THROAT), (Ink.HEAD,)
    patches = [Patch(ellipse(x, y, r, r * 0.96, count=28), Ink.HEAD)]
    patches.append(Patch(at([(1.3, 0.2), (0.4, 0.28), (-0.1, 0.6), (-0.5, 1.2), (1.3, 1.2)]), Ink.THROAT, skin))
    crown = species.crown.split()[-1]
    if crown != "plain":
        cap = at([(1.2, -0.12), (0.6, -0.3), (-0.1, -0.36), (-0.75, -0.12), (-1.3, 0.3), (-1.3, -1.3), (1.2, -1.3)])
        patches.append(Patch(cap, Ink.CROWN, skin))
    if crown == "crest":
        crest = at([(0.75, -0.6), (0.2, -1.15), (-0.5, -1.5), (-1.35, -1.95), (-1.0, -1.1), (-0.85, -0.4), (0, -0.4)])
        patches.append(Patch(smooth([tuple(p) for p in crest], 1), Ink.CROWN))
    eye = at([(0.36, -0.1)])[0]
    marking = species.eye.split()[-1]
    if marking == "mask":
        mask = smooth(
            [tuple(p) for p in at([(1.0, 0.1), (0.5, -0.38), (-0.1, -0.36), (-0.98, 0.05), (-0.5, 0.42), (0.3, 0.34)])],
            1,
        )
        patches.append(Patch(mask, Ink.FACE, (*face, Ink.CROWN)))
    elif marking == "brow":
        brow = at([(0.95, -0.2), (0.45, -0.42), (-0.1, -0.45), (-0.95, -0.12)])
        patches.append(Patch(ribbon(brow, r * np.array([0.14, 0.27, 0.29, 0.16])), Ink.FACE, (*face, Ink.CROWN)))
    elif marking == "stripe":
        line = at([(1.0, 0.1), (0.4, -0.1), (-0.2, -0.06), (-1.0, 0.16)])
        patches.append(Patch(ribbon(line, r * np.array([0.2, 0.24, 0.26, 0.2])), Ink.FACE, face))
    elif marking == "ring":
        patches.append(Patch(ellipse(*eye, r * 0.36, r * 0.36), Ink.FACE))
    beak, gape = beak_outline(build, species.beak.split()[1])
    patches += [Patch(beak, Ink.BEAK), Patch(gape, Ink.BEAK_LINE, (Ink.BEAK,))]
    patches += [
        Patch(ellipse(*eye, r * 0.225, r * 0.225), Ink.EYE_RIM),
        Patch(ellipse(*eye, r * 0.18, r * 0.18), Ink.EYE),
    ]
    patches.append(Patch(ellipse(eye[0] + r * 0.06, eye[1] - r * 0.07, r * 0.06, r * 0.06, count=8), Ink.GLINT))
    return patches


def breast_patches(species: Traits, deep: float) -> list[Patch]:
    """The breast's marking, in the body's frame. `deep`: half the body's depth."""
    shape = species.breast.split()[-1]
    over = (Ink.UNDER,)
    k = deep / 0.28
    if shape == "bib":
        return [Patch(ellipse(0.36, 0.06 * k, 0.25, 0.25 * k, 20), Ink.BREAST, (Ink.UNDER,))]
    if shape == "band":
        band = np.array([(0.62, -0.02), (0.42, 0.0), (0.26, 0.08), (0.14, 0.2), (0.1, 0.34)]) * [1, k]
        return [Patch(ribbon(band, 0.1), Ink.BREAST, over)]
    rows = [(x, y) for j, x in enumerate((0.44, 0.34, 0.24, 0.14, 0.04, -0.06)) for y in _column(j, deep)]
    if shape == "spots":
        return [Patch(ellipse(x, y, 0.03, 0.03, count=8), Ink.BREAST, over) for x, y in rows]
    if shape == "streaks":
        return [Patch(ellipse(x, y, 0.07, 0.016, 8, count=8), Ink.BREAST, over) for x, y in rows]
    return []


def _column(number: int, deep: float) -> list[float]:
    return [deep * (y + 0.12 * (number % 2)) for y in (-0.12, 0.14, 0.4, 0.66, 0.9)]


def wing_patches(species: Traits, deep: float) -> list[Patch]:
    """The folded wing with its feathers and marking, in the body's frame."""
    k = deep / 0.28
    outline = [
        (0.3, -0.06),
        (0.2, -0.17),
        (-0.1, -0.17),
        (-0.42, -0.1),
        (-0.7, 0.0),
        (-0.4, 0.09),
        (-0.05, 0.17),
        (0.2, 0.12),
    ]
    wing = smooth([(x, y * k) for x, y in outline])
    centre = wing.mean(0)
    patches = [Patch((wing - centre) * 1.045 + centre, Ink.WING_EDGE), Patch(wing, Ink.WING)]
    flight = np.array([(-0.06, 0.25), (-0.12, 0.06), (-0.3, -0.04), (-0.8, -0.06), (-0.8, 0.3)]) * [1, k]
    patches.append(Patch(flight, Ink.FLIGHT, (Ink.WING,)))
    for start, end in (((-0.1, 0.1), (-0.62, 0.02)), ((-0.16, 0.03), (-0.66, -0.01)), ((-0.08, 0.145), (-0.46, 0.075))):
        patches.append(Patch(ribbon(np.array([start, end]) * [1, k], 0.014), Ink.FEATHER, (Ink.FLIGHT,)))
    shape, over = species.wing.split()[-1], (Ink.WING, Ink.FLIGHT, Ink.FEATHER)
    bars = {"bar": (0.02,), "bars": (0.12, -0.06)}.get(shape, ())
    for x in bars:
        line = np.array([(x + 0.03, -0.22), (x - 0.02, -0.05), (x - 0.01, 0.08), (x + 0.04, 0.22)]) * [1, k]
        patches.append(Patch(ribbon(line, 0.075 if shape == "bars" else 0.095), Ink.BAR, over))
    if shape == "patch":
        patches.append(Patch(ellipse(-0.14, 0.03 * k, 0.19, 0.085 * k, 6), Ink.BAR, over))
    return patches


def tail_patches(build: Build, species: Traits) -> list[Patch]:
    """The tail, its marked outer feathers and the lines between feathers, in the tail's frame."""
    ink, shape = species.tail.split()
    outline = tail_outline(build, shape)
    end = outline[:, 0].min()
    patches = [Patch(outline, Ink.TAIL)]
    if ink != "plain":
        patches.append(
            Patch(
                np.array([(end + 0.16, -1), (end - 0.2, -1), (end - 0.2, 1), (end + 0.16, 1)]),
                Ink.TAIL_MARK,
                (Ink.TAIL,),
            )
        )
    for side in (-0.5, 0.0, 0.5):
        line = np.array([(-0.4, 0.08 * side), (end + 0.03, side * abs(outline[:, 1]).max())])
        patches.append(Patch(ribbon(line, 0.012), Ink.TAIL_LINE, (Ink.TAIL, Ink.TAIL_MARK)))
    return patches


def colours(species: Traits) -> Array:
    """The colour of every ink (256, 3 uint8); ink NONE is black, so that a drawing comes out premultiplied by its mask."""
    palette = PALETTES[species.palette]

    def ink(slot: str) -> RGB:
        return INKS.get(getattr(species, slot).split()[0], palette.head)

    def shade(colour: RGB, by: float) -> RGB:
        return (min(255, int(colour[0] * by)), min(255, int(colour[1] * by)), min(255, int(colour[2] * by)))

    beak = {"black": (46, 44, 48), "yellow": (236, 176, 40), "red": (208, 62, 40), "white": (222, 210, 190)}
    table = {
        Ink.BACK: palette.back, Ink.UNDER: palette.under, Ink.HEAD: palette.head, Ink.THROAT: shade(palette.under, 1.03),
        Ink.WING: palette.wing, Ink.WING_EDGE: shade(palette.wing, 0.6), Ink.FLIGHT: shade(palette.wing, 0.74),
        Ink.FEATHER: shade(palette.wing, 1.35), Ink.BAR: ink("wing"), Ink.TAIL: shade(palette.wing, 0.9),
        Ink.TAIL_MARK: ink("tail"), Ink.TAIL_LINE: shade(palette.wing, 0.62), Ink.LEG: palette.legs,
        Ink.BEAK: beak[species.beak.split()[0]], Ink.BEAK_LINE: shade(beak[species.beak.split()[0]], 0.5),
        Ink.CROWN: ink("crown"), Ink.FACE: ink("eye"), Ink.BREAST: ink("breast"), Ink.VENT: ink("belly"),
        Ink.EYE: (20, 16, 16), Ink.EYE_RIM: shade(palette.head, 0.55), Ink.GLINT: (250, 250, 250),
    }  # fmt: skip
    lut = np.zeros((256, 3), np.uint8)
    for key, colour in table.items():
        lut[key] = colour
    return lut


def bird_patches(species: Traits, scene: Scene) -> tuple[list[Patch], dict[str, Array], Pose]:
    """A posed bird from back to front, in bird units; its parts' places; its pose."""
    build = BUILDS[species.build]
    pose = Pose.of(build, scene)
    deep = build.plump / 2
    patches = [Patch(move(pose.tail, p.points), p.ink, p.over) for p in tail_patches(build, species)]
    hips = move(pose.body, np.array([(-0.02, deep * 0.75), (0.09, deep * 0.7)]))
    down = pose.whole[:2, :2] @ [0.04, deep * 0.25 + build.legs]
    for hip in hips:
        foot = hip + down
        toe = pose.whole[:2, :2] @ [0.09, 0.0]
        patches.append(Patch(ribbon(np.array([hip, foot]), 0.034), Ink.LEG))
        patches.append(Patch(ribbon(np.array([foot - toe * 0.6, foot + toe]), 0.03), Ink.LEG))
    turns = [2 * math.pi * i / 36 for i in range(36)]
    rear = [max(0.0, -math.cos(t)) ** 1.4 for t in turns]
    torso = np.array(
        [(0.5 * math.cos(t), deep * math.sin(t) * (1 - 0.45 * k) - 0.02 * k) for t, k in zip(turns, rear, strict=True)]
    )
    patches.append(Patch(move(pose.body, torso), Ink.BACK))
    patches.append(Patch(move(pose.body, _neck(build, deep)), Ink.BACK))
    x, y = build.head_at
    under = smooth(
        [
            (x + 0.3, y),
            (x - 0.02, y + 0.14),
            (0.2, 0.02),
            (-0.1, deep * 0.42),
            (-0.46, 0.02),
            (-0.7, 0.5),
            (0, 0.8),
            (0.9, 0.6),
        ],
        1,
    )
    front = [Patch(under, Ink.UNDER, (Ink.BACK,))]
    if species.belly != "plain":
        front.append(Patch(ellipse(-0.28, deep * 0.85, 0.27, deep * 0.75, -14), Ink.VENT, (Ink.UNDER,)))
    front += breast_patches(species, deep) + wing_patches(species, deep)
    patches += [Patch(move(pose.body, p.points), p.ink, p.over) for p in front]
    patches += [Patch(move(pose.head, p.points), p.ink, p.over) for p in head_patches(build, species)]
    return patches, _places(build, species, pose, (hips + down * 0.5).mean(0), hips.mean(0) + down), pose


def _neck(build: Build, deep: float) -> Array:
    """What joins the head to the chest: both circles' common outline."""
    import cv2

    (x, y), r = build.head_at, build.head
    rim = np.concatenate([ellipse(x - 0.02, y, r * 0.92, r * 0.9), ellipse(0.17, -0.02, 0.31, deep * 0.92)])
    return cv2.convexHull(rim.astype(np.float32))[:, 0].astype(float)


def _places(build: Build, species: Traits, pose: Pose, legs: Array, feet: Array) -> dict[str, Array]:
    """Every part's point in bird units, CUB's names without its left and right; and where the feet stand."""
    (x, y), r, deep = build.head_at, build.head, build.plump / 2
    beak = beak_outline(build, species.beak.split()[1])[0]
    tail = tail_outline(build, species.tail.split()[1])
    head = {"beak": beak.mean(0), "crown": (x, y - 0.7 * r), "eye": (x + 0.36 * r, y - 0.1 * r)}
    head |= {"nape": (x - 0.75 * r, y + 0.1 * r), "throat": (x + 0.5 * r, y + 0.65 * r)}
    body = {
        "breast": (0.34, 0.35 * deep),
        "belly": (-0.05, 0.8 * deep),
        "back": (-0.15, -0.75 * deep),
        "wing": (-0.1, 0.0),
    }
    places = {name: move(pose.head, np.array([point]))[0] for name, point in head.items()}
    places |= {name: move(pose.body, np.array([point]))[0] for name, point in body.items()}
    places["tail"] = move(pose.tail, np.array([(0.5 * (tail[:, 0].min() - 0.45), 0.0)]))[0]
    return places | {"legs": legs, "feet": feet}
