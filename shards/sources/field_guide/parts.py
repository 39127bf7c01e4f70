"""Where every part of a field guide bird is, to the pixel, and the same picture without it.

Parts are the seven that species differ in, and the legs. A part is a place, marked or plain: a plain crown tells a bird
from its red-capped sibling. Without wing or eye the plumage under it shows; without any other part what is behind the
bird does. All other pixels stay as they were.
"""

from collections.abc import Collection, Mapping, Sequence
from functools import lru_cache
from itertools import combinations

import cv2
import numpy as np

from shards.sources.field_guide.bird import Pose, fit, move
from shards.sources.field_guide.draw import MARGIN, SCALE, Drawn, draw_bird, paint
from shards.sources.field_guide.scene import SHIFT, Array, Scene, draw_background, draw_leaves, ellipse
from shards.sources.field_guide.shapes import Ink
from shards.sources.field_guide.species import BUILDS, SLOTS, Build, Traits

BIRD_PARTS = (*SLOTS, "legs")
INKS_OF = {
    "beak": (Ink.BEAK, Ink.BEAK_LINE),
    "crown": (Ink.CROWN,),
    "eye": (Ink.FACE, Ink.EYE, Ink.EYE_RIM, Ink.GLINT),
    "breast": (Ink.BREAST,),
    "wing": (Ink.WING_EDGE, Ink.WING, Ink.FLIGHT, Ink.FEATHER, Ink.BAR),
    "tail": (Ink.TAIL, Ink.TAIL_MARK, Ink.TAIL_LINE),
    "belly": (Ink.VENT,),
    "legs": (Ink.LEG,),
}
PLAIN = {"crown": Ink.HEAD, "breast": Ink.UNDER, "belly": Ink.UNDER}  # what lies there without a marking
LAID_ON = ("wing", "eye")  # there is plumage under them


def regions(species: Traits, scene: Scene) -> dict[str, Array]:
    """Part -> (H, W bool), the pixels of it that no leaf hides; parts of which nothing is seen are left out."""
    drawn = draw_bird(species, scene)
    seen = draw_leaves(scene, drawn.room) < 128
    found = {part: _framed(scene, drawn, _mask(species, scene, drawn, part)) & seen for part in BIRD_PARTS}
    return {part: mask for part, mask in found.items() if mask.any()}


def silhouette(species: Traits, scene: Scene) -> Array:
    """(H, W) bool: the whole bird, that which no leaf hides."""
    drawn = draw_bird(species, scene)
    return _framed(scene, drawn, drawn.inks != Ink.NONE) & (draw_leaves(scene, drawn.room) < 128)


def _framed(scene: Scene, drawn: Drawn, mask: Array) -> Array:
    """A mask of the large plumage map in the picture (H, W): pixels of which half is covered."""
    (x, y), (height, width) = drawn.corner, drawn.size
    whole = np.zeros((scene.height, scene.width), bool)
    share = cv2.resize(mask.astype(np.uint8) * 255, (width, height), interpolation=cv2.INTER_AREA)
    whole[y : y + height, x : x + width] = share >= 128
    return whole


def things(species: Traits, scene: Scene) -> list[str]:
    """What is around the bird and can be left out: blobs, twigs, the perch, leaves."""
    drawn, listed = draw_bird(species, scene, markings=False), list[str]()
    draw_background(scene, drawn.feet, drawn.scale, listed=listed)
    return listed + [f"leaf{number}" for number in range(len(scene.leaves))]


def paint_without(species: Traits, scene: Scene, without: Collection[str]) -> Array:
    """The picture (H, W, 3 uint8, RGB) without these parts of the bird and things around it."""
    laid_on = {ink for part in LAID_ON if part in without for ink in INKS_OF[part]}
    drawn = draw_bird(species, scene, without=laid_on)
    inks = drawn.inks.copy()
    for part in BIRD_PARTS:
        if part in without and part not in LAID_ON:
            inks[_mask(species, scene, drawn, part)] = Ink.NONE
    return paint(species, scene, inks=inks, without=without)


def sufficient_parts(telling: Mapping[str, Sequence[str]], classes: int, label: int) -> list[frozenset[str]]:
    """The smallest sets of parts that together tell a class from every other.

    telling: "0-1" -> the parts that tell classes 0 and 1 apart, as the manifest has it.
    """
    tells = [set(telling[f"{min(label, other)}-{max(label, other)}"]) for other in range(classes) if other != label]
    found: list[frozenset[str]] = []
    for count in range(1, len(BIRD_PARTS) + 1):
        for chosen in map(frozenset, combinations(BIRD_PARTS, count)):
            if not any(smaller <= chosen for smaller in found) and all(parts & chosen for parts in tells):
                found.append(chosen)
    return found


def _mask(species: Traits, scene: Scene, drawn: Drawn, part: str) -> Array:
    """A part's pixels in the large plumage map (bool)."""
    mask = np.isin(drawn.inks, INKS_OF[part])
    if part in PLAIN:
        mask |= (drawn.inks == PLAIN[part]) & _place(species, scene, drawn, part)
    return mask


def _place(species: Traits, scene: Scene, drawn: Drawn, part: str) -> Array:
    """Where a marking of this part can lie, in the large plumage map (bool)."""
    build = BUILDS[species.build]
    pose = Pose.of(build, scene)
    frame, outline = (pose.head if part == "crown" else pose.body), _outline(build, part)
    scale, shift, _ = fit(build, scene, MARGIN)
    points = move(frame, outline) * scale + shift
    fixed = np.rint(((points - drawn.corner) * SCALE - 0.5) * (1 << SHIFT)).astype(np.int32)
    stencil = np.zeros(drawn.inks.shape, np.uint8)
    cv2.fillPoly(stencil, [fixed], 1, cv2.LINE_8, SHIFT)
    return stencil.astype(bool)


@lru_cache
def _outline(build: Build, part: str) -> Array:
    """The place of a part's markings in its own frame: as large as they get, apart from one another."""
    (x, y), r, deep = build.head_at, build.head, build.plump / 2
    if part == "crown":  # as a cap
        cap = [(1.2, -0.12), (0.6, -0.3), (-0.1, -0.36), (-0.75, -0.12), (-1.3, 0.3), (-1.3, -1.3), (1.2, -1.3)]
        return np.array(cap) * r + [x, y]
    if part == "breast":  # as a bib
        return ellipse(0.36, 0.06 * deep / 0.28, 0.25, 0.25 * deep / 0.28)
    return ellipse(-0.27, deep * 0.85, 0.32, deep * 0.78, -14)  # as a vent
