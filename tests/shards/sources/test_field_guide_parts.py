"""A bird without a part: its pixels change and no others; parts lie where the annotations say; what tells is enough."""

from dataclasses import replace
from itertools import combinations

import cv2
import numpy as np
import pytest

from shards.sources.field_guide.draw import annotate, paint
from shards.sources.field_guide.parts import BIRD_PARTS, paint_without, regions, sufficient_parts, things
from shards.sources.field_guide.scene import draw_scene
from shards.sources.field_guide.source import scene_of
from shards.sources.field_guide.species import SLOTS, catalogue, telling_parts

BIRDS = catalogue(12)


def wider(mask: np.ndarray, pixels: int) -> np.ndarray:
    return cv2.dilate(mask.astype(np.uint8), np.ones((2 * pixels + 1,) * 2, np.uint8)) > 0


@pytest.mark.parametrize("label", [0, 1, 2, 5, 9])
def test_only_the_parts_pixels_change(label: int) -> None:
    scene = scene_of(3, "val", label, 0, 160)
    whole = paint(BIRDS[label], scene)
    assert (paint_without(BIRDS[label], scene, ()) == whole).all()
    found = regions(BIRDS[label], scene)
    assert set(found) <= set(BIRD_PARTS)
    assert len(found) >= 6
    for a, b in combinations(found.values(), 2):
        assert not (a & b).any()  # a pixel belongs to one part
    for part in BIRD_PARTS:
        changed = (paint_without(BIRDS[label], scene, [part]) != whole).any(2)
        region = found.get(part, np.zeros_like(changed))
        # But for the anti-aliased edge of thin legs, of which a pixel may hold less than half.
        assert (changed & ~wider(region, 2)).sum() <= 0.1 * changed.sum(), part
        assert changed[region].mean() > 0.8, part
    bare = paint_without(BIRDS[label], scene, BIRD_PARTS)
    assert ((bare != whole).any(2) >= (paint_without(BIRDS[label], scene, ["tail"]) != whole).any(2)).all()


def test_parts_lie_where_the_annotations_say() -> None:
    hits = {part: [] for part in SLOTS}
    for label in range(12):
        scene = replace(draw_scene((5, label), 200), leaves=(), looks_back=False)
        found, points = regions(BIRDS[label], scene), annotate(BIRDS[label], scene)[1]
        for part in SLOTS:
            x, y = points[part]
            hits[part].append(wider(found[part], 5)[min(int(y), scene.height - 1), min(int(x), scene.width - 1)])
    assert all(np.mean(found) > 0.9 for found in hits.values()), hits


def test_relatives_differ_in_what_tells_them_and_nowhere_else() -> None:
    checked = 0
    for a, b in combinations(range(12), 2):
        parts = telling_parts(BIRDS[a], BIRDS[b])
        if BIRDS[a].family == BIRDS[b].family:
            scene = replace(draw_scene((6, a, b), 160), leaves=())
            changed = np.abs(paint(BIRDS[a], scene).astype(int) - paint(BIRDS[b], scene)).max(2) > 12
            places = [regions(BIRDS[label], scene)[part] for label in (a, b) for part in parts]
            assert changed.any()
            # A longer beak shades the cheek beside it a little.
            assert (changed & ~wider(np.any(places, axis=0), 3)).sum() <= 0.1 * changed.sum(), (a, b, parts)
            checked += 1
    assert checked == 12


def test_things_around_the_bird_can_be_left_out() -> None:
    scene = next(
        scene for seed in range(50) if (scene := draw_scene((8, seed), 160)).leaves and scene.perch == "branch"
    )
    listed = things(BIRDS[0], scene)
    assert {"blob0", "perch", "leaf0"} <= set(listed)
    whole, bird = paint(BIRDS[0], scene), np.any(list(regions(BIRDS[0], scene).values()), axis=0)
    for name in listed:
        changed = (paint_without(BIRDS[0], scene, [name]) != whole).any(2)
        if not name.startswith("leaf"):
            assert not (changed & bird).sum() > 40, name  # behind the bird
        assert changed.mean() < 0.6, name
    assert (paint_without(BIRDS[0], scene, ["perch"]) != whole).any()
    empty = paint_without(BIRDS[0], scene, listed)
    assert ((empty != whole).any(2)).sum() > 300


def test_sufficient_parts_tell_a_class_from_every_other_and_are_smallest() -> None:
    telling = {f"{i}-{j}": telling_parts(BIRDS[i], BIRDS[j]) for i, j in combinations(range(12), 2)}
    for label in range(12):
        found = sufficient_parts(telling, 12, label)
        assert found
        others = [set(telling[f"{min(label, o)}-{max(label, o)}"]) for o in range(12) if o != label]
        for parts in found:
            assert all(parts & tells for tells in others)
            for part in parts:
                assert not all((parts - {part}) & tells for tells in others)
    # By hand: of a family's three the first has neither trait and needs both parts; the others need their own.
    traits = [set(telling["0-1"]), set(telling["0-2"])]
    assert frozenset(traits[0] | traits[1]) in sufficient_parts(telling, 12, 0)
    assert frozenset(traits[1]) in sufficient_parts(telling, 12, 2)
