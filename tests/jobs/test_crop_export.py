"""Cropped pictures as shards of their own: pixels, boxes and parts in the crop's frame, bytes kept where not cut."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from made_trees import make_dogs

from jobs.cli import main
from shards.boxes_layer import write_layer
from shards.manifest import Manifest, read_manifest
from shards.reading.decode import decode
from shards.reading.reader import Reader
from shards.reading.views import Policy, open_views
from shards.verify import verify


def psnr(one: torch.Tensor, other: torch.Tensor) -> float:
    """Peak signal to noise in dB of two uint8 images."""
    return float(10 * np.log10(255**2 / (one.float() - other.float()).square().mean()))


@pytest.mark.parametrize("crop", ["square", "padded"])
def test_crops_as_shards_are_what_runs_read(guide: Manifest, tmp_path: Path, crop: str) -> None:
    missed, full = guide.entries[0], guide.entries[1]
    found = {entry.key: [(10, 12, 30, 44, 0.9)] for entry in guide.entries} | {missed.key: []}
    found[full.key] = [(0, 0, full.width, full.height, 0.8)]
    layer = tmp_path / "boxes.jsonl"
    write_layer(layer, guide, found, {})
    words = ["shards", "build", "crops", str(guide.folder), str(tmp_path / "out"), f"crop={crop}", f"boxes={layer}"]
    assert main([*words, "margin=0"]) == 0
    assert verify(tmp_path / "out") == []
    made = read_manifest(tmp_path / "out")
    (view,) = open_views(Policy(crop, 0.0, str(layer), 0.0), guide, range(len(guide.entries)))
    place = {entry.key: member for member, entry in enumerate(guide.entries)}
    before, after = Reader(guide), Reader(made)
    quality = []
    for number, entry in enumerate(made.entries):
        member = place[entry.key]
        original = guide.entries[member]
        assert (entry.label, entry.split, entry.origin) == (original.label, original.split, original.origin)
        if entry.key == missed.key or (entry.key == full.key and crop == "square"):
            assert after.read(number) == before.read(member)
            assert entry.boxes == original.boxes
            continue
        expected = view.cut(decode(before.read(member)), member)
        stored = decode(after.read(number))
        assert stored.shape == expected.shape
        if entry.key != full.key:
            side = max(original.width, original.height)
            assert stored.shape[1:] == ((32, 32) if crop == "square" else (side, side))
            # The box of 20 x 32 around (20, 28): its square begins at (4, 12); padded, it begins in the middle.
            shift = (4, 12) if crop == "square" else (10 - (side - 20) // 2, 12 - (side - 32) // 2)
            limits = ((4, 36), (12, 44)) if crop == "square" else ((10, 30), (12, 44))
            x0, y0, x1, y1 = original.boxes[0]
            (left, right), (top, bottom) = limits
            wanted = np.clip([x0, x1], left, right) - shift[0], np.clip([y0, y1], top, bottom) - shift[1]
            for box in entry.boxes:
                assert [*box] == pytest.approx([wanted[0][0], wanted[1][0], wanted[0][1], wanted[1][1]], abs=0.01)
            for name, (x, y) in original.parts.items():
                inside = left <= x <= right and top <= y <= bottom
                assert (name in entry.parts) == inside
                if inside:
                    assert entry.parts[name] == pytest.approx((x - shift[0], y - shift[1]), abs=0.01)
        quality.append(psnr(stored, expected))
    assert np.median(quality) > 36
    assert min(quality) > 33


def test_another_policy_is_refused_and_mistakes_are_one_line(
    guide: Manifest, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    def build(*words: str) -> tuple[int, str]:
        code = main(["shards", "build", "crops", str(guide.folder), str(tmp_path / "out"), *words])
        return code, capsys.readouterr().err

    assert build("crop=box", "min_shards=1")[0] == 0
    code, error = build("crop=box", "min_shards=1", "margin=0.3")
    assert code == 2
    assert "holds other shards" in error
    assert "already built" in build("crop=box", "min_shards=1")[1]
    assert "there is no" in build("crop=box", "boxes=none.jsonl")[1] or "No such file" in build("boxes=none.jsonl")[1]
    assert "did you mean 'box'" in build("crop=bux")[1]


def test_the_largest_of_two_dogs_is_cut_out(tmp_path: Path) -> None:
    whole, cut = str(tmp_path / "dogs"), str(tmp_path / "crops")
    assert main(["shards", "build", "stanford_dogs", str(make_dogs(tmp_path / "raw")), whole]) == 0
    assert main(["shards", "build", "crops", whole, cut, "crop=box", "margin=0"]) == 0
    dogs = {entry.key: entry for entry in read_manifest(tmp_path / "dogs").entries}
    pairs = [(dogs[one.key], one) for one in read_manifest(tmp_path / "crops").entries]
    assert sum(len(dog.boxes) == 2 for dog, _ in pairs) == 4
    for dog, one in pairs:
        x0, y0, x1, y1 = max(dog.boxes, key=lambda box: (box[2] - box[0]) * (box[3] - box[1]))
        assert (one.width, one.height) == (x1 - x0, y1 - y0)
        assert one.boxes[dog.boxes.index((x0, y0, x1, y1)) if len(one.boxes) > 1 else 0] == (0, 0, x1 - x0, y1 - y0)
    assert json.loads((tmp_path / "crops/manifest.json").read_text())["extra"]["crop"] == "box"
