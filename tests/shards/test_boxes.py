"""Boxes layers: what is written comes back, and every kind of damage or misfit is one line."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from shards.boxes_layer import BoxesLayer, layer_hash, read_layer, write_layer
from shards.errors import UserError
from shards.manifest import Manifest


def some_boxes(guide: Manifest) -> dict[str, list[tuple[float, ...]]]:
    return {entry.key: [(1, 2, 30, 40, 0.25), (3.125, 4, 60.5, 50, 0.75)] for entry in guide.entries}


def test_boxes_come_back_clipped_sorted_and_without_those_outside(guide: Manifest, tmp_path: Path) -> None:
    first, second, third = (entry.key for entry in guide.entries[:3])
    height = guide.entries[0].height
    assert max(guide.entries[0].width, height) == 64
    found = {
        first: [(-5, 10, 20, 90, 0.3), (1.004, 2, 30, 40, 0.9)],
        second: [(-9, 0, -1, 20, 0.8), (10, 64, 20, 90, 0.7)],
        third: [],
    }
    path = tmp_path / "new" / "boxes.jsonl"
    written = write_layer(path, guide, found, {"job": "crop", "run": "a"})
    assert written.boxes[first] == ((1.0, 2.0, 30.0, 40.0, 0.9), (0.0, 10.0, 20.0, height, 0.3))
    assert written.boxes[second] == written.boxes[third] == ()
    assert read_layer(path, guide) == written == BoxesLayer(written.boxes, {"job": "crop", "run": "a"})
    assert guide.entries[3].key not in written.boxes
    assert [file.name for file in path.parent.iterdir()] == ["boxes.jsonl"]


def test_hash_is_of_the_boxes_and_not_of_who_made_them(guide: Manifest, tmp_path: Path) -> None:
    paths = [tmp_path / name for name in "abc"]
    write_layer(paths[0], guide, some_boxes(guide), {"run": "a"})
    write_layer(paths[1], guide, some_boxes(guide), {"run": "b"})
    write_layer(paths[2], guide, some_boxes(guide) | {guide.entries[0].key: []}, {"run": "a"})
    hashes = [layer_hash(path) for path in paths]
    assert hashes[0] == hashes[1] != hashes[2]


def test_mistakes_in_what_is_written(guide: Manifest, tmp_path: Path) -> None:
    key, path = guide.entries[0].key, tmp_path / "boxes.jsonl"
    for found, message in [
        ({"nobody": []}, "boxes for 'nobody', which is no sample"),
        ({key: [(1, 2, 3, 4)]}, "a box is five numbers"),
        ({key: [(1, 2, float("nan"), 4, 0.5)]}, "a box is five numbers"),
        ({key: [(1, 2, 3, 4, 1.5)]}, "score 1.5 is outside 0 to 1"),
    ]:
        with pytest.raises(UserError, match=message) as caught:
            write_layer(path, guide, found, {})
        assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="cannot be written"):
        write_layer(Path("/proc/none/boxes.jsonl"), guide, {}, {})
    assert not path.exists()


def line(number: int, text: str) -> Callable[[list[str]], list[str]]:
    return lambda lines: [*lines[:number], text, *lines[number + 1 :]]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda lines: lines[:-1], "107 samples of 108 are in it: cut off"),
        (lambda lines: [*lines[:-1], lines[-1][:20]], "not readable as a boxes layer"),
        (lambda lines: [], "not readable as a boxes layer"),
        (line(0, '{"format": "coco"}'), "format 'coco', this version reads"),
        (
            line(0, '{"format": "fgvc-boxes 1", "shards": "0123", "samples": 108, "made_by": {}}'),
            "made for other shards",
        ),
        (line(1, '{"key": "KEY", "boxes": [[5, 5, 5, 9, 0.5]]}'), "is empty or outside its image of "),
        (line(1, '{"key": "KEY", "boxes": [[5, 5, 65, 9, 0.5]]}'), "is empty or outside its image of "),
        (line(1, '{"key": "KEY", "boxes": [[5, 5, 6, "9", 0.5]]}'), "a box is five numbers"),
        (line(1, '{"key": "stranger", "boxes": []}'), "boxes for 'stranger', which is no sample"),
        (line(1, '{"boxes": []}'), "not readable as a boxes layer"),
    ],
)
def test_damaged_layers_are_refused_in_one_line(guide: Manifest, tmp_path: Path, damage, message: str) -> None:
    path = tmp_path / "boxes.jsonl"
    write_layer(path, guide, some_boxes(guide), {})
    lines = path.read_text().splitlines()
    key = json.loads(lines[1])["key"]
    path.write_text("\n".join(damage(lines)).replace("KEY", key))
    with pytest.raises(UserError) as caught:
        read_layer(path, guide)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_file_says_what_makes_one(guide: Manifest, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="No such file or directory; fgvc crop makes a boxes layer"):
        read_layer(tmp_path / "none.jsonl", guide)
