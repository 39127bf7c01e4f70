"""What surrounds a field guide bird, from one seed and whatever the species: pose, light, background, perch, leaves."""

import math
from collections.abc import Collection
from dataclasses import dataclass

import cv2
import numpy as np

SPLITS = {"train": 0, "test": 1, "val": 2}
SHIFT = 4  # fractional bits of OpenCV's fixed-point coordinates

Array = np.ndarray
# Two colours that a background mixes, and how much taller than wide its blotches are.
GROUNDS = {
    "foliage": ((58, 92, 40), (150, 176, 92)),
    "autumn": ((96, 66, 34), (206, 158, 84)),
    "sky": ((118, 164, 212), (222, 232, 240)),
    "mist": ((142, 148, 146), (206, 208, 202)),
    "dusk": ((66, 72, 104), (216, 162, 128)),
    "water": ((56, 92, 110), (142, 178, 186)),
    "shade": ((26, 42, 30), (84, 110, 70)),
}
BLOBS = ((196, 48, 40), (238, 206, 70), (240, 238, 228), (104, 62, 40), (60, 110, 180), (40, 40, 42), (120, 160, 70))


@dataclass(frozen=True)
class Scene:
    """One picture's circumstances; angles in degrees, lengths as shares of the frame, places in 0..1."""

    width: int
    height: int
    mirrored: bool
    roll: float
    pitch: float
    head_pitch: float
    head_yaw: float  # how far the head turns out of profile: its width shrinks to this share
    looks_back: bool
    tail_raise: float
    share: float  # the bird's longer side of what fits the frame
    place: tuple[float, float]
    tint: tuple[float, float, float]
    light: tuple[float, float, float]  # gain of red, green, blue
    sun: float
    contrast: float
    ground: str
    perch: str
    leaves: tuple[tuple[float, float, float, float, float], ...]  # x, y (shares of the bird's room), length, angle, hue
    entropy: tuple[int, ...]


def draw_scene(entropy: tuple[int, ...], size: int) -> Scene:
    """The scene of one seed, on a frame whose longer side is `size` pixels.

    Only `random()` of a PCG64 is used: its stream is the same in every process, on every machine.
    """
    rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence(entropy)))

    def between(low: float, high: float) -> float:
        return low + (high - low) * rng.random()

    short = round(size * between(0.72, 1.0))
    width, height = (size, short) if rng.random() < 0.7 else (short, size)
    warmth, brightness = between(-0.12, 0.12), between(0.72, 1.14)
    leaves = [
        (between(0.15, 0.85), between(0.15, 0.85), between(0.2, 0.36), between(0, 360), rng.random())
        for _ in range(1 + int(rng.random() < 0.3))
    ]
    occluded = rng.random() < 0.22
    return Scene(
        width=width,
        height=height,
        mirrored=rng.random() < 0.5,
        roll=between(-9, 9),
        pitch=between(-14, 14),
        head_pitch=between(-22, 18),
        head_yaw=between(0.8, 1.0),
        looks_back=rng.random() < 0.12,
        tail_raise=between(-9, 12),
        share=between(0.62, 1.0),
        place=(rng.random(), rng.random()),
        tint=(between(0.92, 1.08), between(0.94, 1.06), between(0.92, 1.08)),
        light=(brightness * (1 + warmth), brightness, brightness * (1 - warmth)),
        sun=between(-160, -20),
        contrast=between(0.1, 0.34),
        ground=list(GROUNDS)[int(rng.random() * len(GROUNDS))],
        perch=("branch", "branch", "branch", "bank", "bank")[int(rng.random() * 5)],
        leaves=tuple(leaves) if occluded else (),
        entropy=entropy,
    )


def noise(rng: np.random.Generator, shape: tuple[int, int], cells: tuple[int, int]) -> Array:
    """Smooth uint8 noise (H, W): a grid of random values, enlarged. Whole numbers, so the same on every machine."""
    grid = (rng.random((cells[1] + 1, cells[0] + 1)) * 256).astype(np.uint8)
    return cv2.resize(grid, (shape[1], shape[0]), interpolation=cv2.INTER_LINEAR_EXACT)


def fill(image: Array, points: Array, colour: tuple[float, ...], line: int = cv2.LINE_AA) -> None:
    """Fill one polygon (N, 2), in pixels, in place."""
    cv2.fillPoly(image, [np.rint(points * (1 << SHIFT)).astype(np.int32)], colour, line, SHIFT)


def ribbon(points: Array, widths: float | Array) -> Array:
    """The outline of a stroke of the given width(s) along a line of points (N, 2)."""
    along = np.gradient(points, axis=0)
    across = np.stack([-along[:, 1], along[:, 0]], 1) / np.maximum(np.hypot(along[:, 0], along[:, 1]), 1e-9)[:, None]
    half = across * (np.broadcast_to(np.asarray(widths, float), len(points)) / 2)[:, None]
    return np.concatenate([points + half, (points - half)[::-1]])


def ellipse(x: float, y: float, rx: float, ry: float, angle: float = 0.0, count: int = 20) -> Array:
    """The outline of an ellipse; `angle` in degrees."""
    turns = [2 * math.pi * i / count for i in range(count)]
    c, s = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    circle = [(rx * math.cos(t), ry * math.sin(t)) for t in turns]
    return np.array([(x + c * u - s * v, y + s * u + c * v) for u, v in circle])


def draw_background(
    scene: Scene, feet: Array, length: float, without: Collection[str] = (), listed: list[str] | None = None
) -> Array:
    """The picture before the bird comes (H, W, 3 uint8): blurred ground, blobs, far twigs, and the perch at its feet.

    feet: (2,) pixels. length: the bird's body in pixels, which the perch's thickness goes by. without: things to leave
    out (blob0, twig0, perch), all else as it was. listed: gets the names of all that is there to leave out.
    """
    listed = [] if listed is None else listed
    rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence((*scene.entropy, 1))))
    width, height, size = scene.width, scene.height, max(scene.width, scene.height)
    low, high = np.array(GROUNDS[scene.ground], np.float32)
    cells = (2, 9) if scene.ground == "water" else (5, 5)
    mix = noise(rng, (height, width), cells) // 2 + noise(rng, (height, width), (cells[0] * 3, cells[1] * 3)) // 4
    ramp = (np.arange(height, dtype=np.uint16)[:, None] * 64 // height).astype(np.uint8)
    steps = np.linspace(0, 1, 256, dtype=np.float32)[:, None]
    table = np.rint(high + (low - high) * steps).astype(np.uint8)
    image = cv2.applyColorMap(mix + ramp, np.ascontiguousarray(table[:, None]))
    for number in range(1 + int(rng.random() * 6)):
        x, y, radius = rng.random() * width, rng.random() * height, size * (0.015 + 0.05 * rng.random())
        colour = tuple(
            0.6 * c + 0.4 * float(g) for c, g in zip(BLOBS[int(rng.random() * len(BLOBS))], low, strict=True)
        )
        outline = ellipse(x, y, radius, radius * (0.5 + rng.random() / 2), 180 * rng.random(), 12)
        listed.append(f"blob{number}")
        if listed[-1] not in without:
            fill(image, outline, colour)
    for number in range(int(rng.random() * 4)):
        ends = np.array([[rng.random() * width, -5], [rng.random() * width, height + 5]])
        shade = 0.5 + 0.7 * rng.random()
        stroke = ribbon(ends, size * (0.008 + 0.02 * rng.random()))
        listed.append(f"twig{number}")
        if listed[-1] not in without:
            fill(image, stroke, (72 * shade, 58 * shade, 44 * shade))
    blur = (int(size * (0.008 + 0.022 * rng.random()))) * 2 + 1
    image = cv2.GaussianBlur(image, (blur, blur), 0)
    listed.append("perch")
    if "perch" not in without:
        _draw_perch(image, scene, rng, feet, length)
    return image


def _draw_perch(image: Array, scene: Scene, rng: np.random.Generator, feet: Array, length: float) -> None:
    """A branch or a bank under the bird's feet, in place."""
    height, width = image.shape[:2]
    slope = math.tan(math.radians(scene.roll + 16 * (rng.random() - 0.5)))
    xs = np.linspace(-0.05 * width, 1.05 * width, 7)
    wobble = (rng.random(7) - 0.5) * length * 0.05
    thick = length * (0.07 + 0.07 * rng.random())
    bark = np.array([(104, 82, 62), (126, 116, 104), (84, 70, 50)][int(rng.random() * 3)])
    if scene.perch == "branch":
        line = np.stack([xs, feet[1] + thick * 0.45 + (xs - feet[0]) * slope + wobble], 1)
        fill(image, ribbon(line, thick), tuple(bark * 0.62))
        fill(image, ribbon(line - [0, thick * 0.12], thick * 0.7), tuple(bark * 1.0))
        fill(image, ribbon(line - [0, thick * 0.27], thick * 0.22), tuple(bark * 1.25))
        return
    line = np.stack([xs, feet[1] - length * 0.02 + wobble * 0.6], 1)
    bank = np.concatenate([line, [[width * 1.05, height * 2.0], [-0.05 * width, height * 2.0]]])
    soil = np.array([(140, 122, 92), (110, 116, 70), (152, 148, 140)][int(rng.random() * 3)])
    fill(image, bank, tuple(soil * 1.0))
    fill(image, ellipse(feet[0], feet[1] + length * 0.03, length * 0.45, length * 0.06), tuple(soil * 0.72))


def draw_leaves(scene: Scene, room: Array, image: Array | None = None, without: Collection[str] = ()) -> Array:
    """Leaves in front of the bird: draws them on `image`, and returns what they cover (H, W uint8, 0..255).

    without: leaves to leave out (leaf0, leaf1).
    """
    cover = np.zeros((scene.height, scene.width), np.uint8)
    longer = max(room[2] - room[0], room[3] - room[1])
    for number, (u, v, share, angle, hue) in enumerate(scene.leaves):
        if f"leaf{number}" in without:
            continue
        x, y = room[0] + u * (room[2] - room[0]), room[1] + v * (room[3] - room[1])
        half = share * longer / 2
        c, s = math.cos(math.radians(angle)), math.sin(math.radians(angle))
        leaf = np.array([(t, 0.36 * (1 - t * t) * (1 - 0.3 * t)) for t in np.linspace(-1, 1, 9)])
        outline = np.concatenate([leaf, (leaf * [1, -1])[::-1]]) * half
        turn = np.array([[c, s], [-s, c]])
        placed = outline @ turn + [x, y]
        stem = np.array([[-3.2, 0.5], [-2, 0.12], [-1, 0.0], [0.9, 0.0]]) * half @ turn + [x, y]
        twig = ribbon(stem[:3], half * 0.1)
        for outline in (placed, twig):
            fill(cover, outline, (255,))
        if image is not None:
            green = np.array([70 + 130 * hue, 128 - 18 * hue, 48.0])
            fill(image, twig, (86, 66, 44))
            fill(image, placed, tuple(green))
            fill(image, placed[:9], tuple(green * 0.86))
            fill(image, ribbon(stem[2:], half * 0.05), tuple(green * 1.2))
    return cover
