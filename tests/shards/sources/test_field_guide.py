"""The field guide: same pictures everywhere, exact boxes and parts, relatives that differ only where they should."""

import io
import pickle
import subprocess
import sys
from dataclasses import replace
from hashlib import sha256
from itertools import combinations, pairwise
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from places import ROOT

from shards.errors import UserError
from shards.sample import RawDataset
from shards.sources.field_guide.draw import draw_bird, paint
from shards.sources.field_guide.scene import draw_scene
from shards.sources.field_guide.shapes import Ink
from shards.sources.field_guide.source import Options, scan, scene_of
from shards.sources.field_guide.species import PARTS, catalogue, look, telling_parts

NOWHERE = Path("-")
SMALL = Options(species=4, train_per_class=3, test_per_class=2, size=120)


def digests(raw: RawDataset) -> dict[str, str]:
    """The checksum of every picture by its key."""
    return {sample.key: sha256(raw.read(sample)).hexdigest() for sample in raw.samples}


def bare(entropy: tuple[int, ...], size: int = 160):
    """A scene without leaves, in profile: nothing hides a part."""
    return replace(draw_scene(entropy, size), leaves=(), looks_back=False)


def test_same_pictures_in_another_process() -> None:
    code = (
        "from pathlib import Path; from hashlib import sha256; from shards.sources.field_guide.source import *;"
        "raw = scan(Path('-'), Options(species=4, train_per_class=3, test_per_class=2, size=120));"
        "print(*(f'{s.key}={sha256(raw.read(s)).hexdigest()}={s.boxes}' for s in raw.samples), sep='\\n')"
    )
    root = ROOT
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=root).stdout
    raw = scan(NOWHERE, SMALL)
    here = digests(pickle.loads(pickle.dumps(raw)))
    assert told.splitlines() == [f"{s.key}={here[s.key]}={s.boxes}" for s in raw.samples]
    assert len(set(here.values())) == len(here) == 4 * 5


def test_more_images_and_species_leave_the_others_alone() -> None:
    small = scan(NOWHERE, SMALL)
    large = scan(NOWHERE, replace(SMALL, species=5, train_per_class=4, test_per_class=3))
    before, after = digests(small), digests(large)
    assert before.items() <= after.items()
    assert small.classes == large.classes[:4]
    assert {s.key: (s.boxes, s.parts) for s in small.samples}.items() <= {
        s.key: (s.boxes, s.parts) for s in large.samples
    }.items()
    reseeded = digests(scan(NOWHERE, replace(SMALL, seed=1)))
    assert not set(reseeded.values()) & set(before.values())


def test_box_is_where_the_bird_changes_the_picture() -> None:
    """The reference knows nothing of masks: the picture with the bird against the same place without it."""
    raw = scan(NOWHERE, replace(SMALL, species=8, train_per_class=5))
    birds = catalogue(8)
    worst = []
    for sample in raw.samples:
        scene = scene_of(0, sample.split, sample.label, int(sample.key[-5:]), SMALL.size)
        with_bird, without = (paint(birds[sample.label], scene, bird=there).astype(int) for there in (True, False))
        assert with_bird.shape == (scene.height, scene.width, 3)
        changed = abs(with_bird - without).max(2) > 12
        ys, xs = np.flatnonzero(changed.any(1)), np.flatnonzero(changed.any(0))
        seen = (xs[0], ys[0], xs[-1] + 1, ys[-1] + 1)
        worst.append(max(abs(a - b) for a, b in zip(seen, sample.boxes[0], strict=True)))
    # A pixel that the bird barely covers, or covers in the background's own colour, may count on one side only.
    assert np.mean(np.array(worst) <= 1) > 0.9
    assert max(worst) <= 4


def test_parts_lie_in_the_box_and_on_the_bird() -> None:
    on_bird = []
    for sample in (raw := scan(NOWHERE, replace(SMALL, species=12))).samples:
        x0, y0, x1, y1 = sample.boxes[0]
        width, height = Image.open(io.BytesIO(raw.read(sample))).size
        assert 0 <= x0 < x1 <= width
        assert 0 <= y0 < y1 <= height
        assert max(width, height) == SMALL.size
        assert set(sample.parts) <= set(PARTS)
        assert all(x0 <= x < x1 and y0 <= y < y1 for x, y in sample.parts.values())
    for label, bird in enumerate(catalogue(24)):
        drawn = draw_bird(bird, bare((7, label)))
        for name, (x, y) in drawn.parts.items():
            column, row = (int(3 * (a - b)) for a, b in zip((x, y), drawn.corner, strict=True))
            on_bird.append((name, drawn.inks[row, column] != Ink.NONE))
    assert np.mean([hit for _, hit in on_bird]) > 0.95
    eyes = [hit for name, hit in on_bird if name == "eye"]
    assert all(eyes)


def near(part: str, drawn, points: np.ndarray) -> np.ndarray:
    """Which points (N, 2) lie near a part: within its reach in body lengths."""
    reach = {"tail": 0.85, "beak": 0.4, "crown": 0.5, "eye": 0.3, "wing": 0.55, "breast": 0.62, "belly": 0.62}[part]
    return np.hypot(*(points - drawn.parts[part]).T) <= reach * drawn.scale


@pytest.mark.parametrize("family", range(0, 60, 6))
def test_relatives_differ_only_near_the_telling_part(family: int) -> None:
    members = [bird for bird in catalogue(200) if bird.family == family]
    scene = bare((3, family))
    for a, b in combinations(members[:3], 2):
        telling = telling_parts(a, b)
        assert 1 <= len(telling) <= 2
        changed = abs(paint(a, scene).astype(int) - paint(b, scene)).max(2) > 12
        points = np.argwhere(changed)[:, ::-1] + 0.5
        assert len(points) >= 4, f"{a.name} and {b.name} look the same"
        close = np.zeros(len(points), bool)
        for drawn in (draw_bird(a, scene), draw_bird(b, scene)):
            for part in telling:
                close |= near(part, drawn, points)
        assert close.mean() > 0.99, f"{a.name} / {b.name}: {telling}"


def test_two_hundred_species() -> None:
    birds = catalogue(200)
    assert len({bird.name for bird in birds}) == 200
    assert len({tuple(look(bird, part) for part in PARTS) for bird in birds}) == 200
    assert birds[:12] == catalogue(12)
    families = [[bird for bird in birds if bird.family == number] for number in range(birds[-1].family)]
    assert {len(members) for members in families} == {3, 4}
    for members in families:
        assert all(1 <= len(telling_parts(a, b)) <= 2 for a, b in combinations(members, 2))
    assert all(len(telling_parts(a[0], b[0])) > 2 for a, b in pairwise(families))


def test_extra_names_what_tells_any_two_apart() -> None:
    raw = scan(NOWHERE, replace(SMALL, species=12, train_per_class=1, test_per_class=0))
    assert raw.extra["telling"].keys() == {f"{i}-{j}" for i, j in combinations(range(12), 2)}
    assert raw.extra["telling"]["0-1"] == ["eye"]
    assert [species["name"] for species in raw.extra["species"]] == list(raw.classes)
    assert {sample.split for sample in raw.samples} == {"train"}


@pytest.mark.parametrize(
    ("name", "value"), [("species", 1), ("species", 201), ("train_per_class", 0), ("size", 8), ("seed", -1)]
)
def test_options_out_of_range(name: str, value: int) -> None:
    with pytest.raises(UserError, match=f"{name}={value} is outside"):
        scan(NOWHERE, replace(SMALL, **{name: value}))
