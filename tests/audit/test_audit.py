"""fgvc audit: planted copies and wrong labels are found, odd boxes too; the page is text only; builds take its CSV."""

import csv
import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from fgvc.audit import duplicates
from fgvc.audit.boxes import odd_boxes
from fgvc.audit.duplicates import Pair, exact_groups, kept_together, near_pairs
from fgvc.audit.findings import Findings, Label
from fgvc.audit.labels import doubtful, out_of_fold
from fgvc.audit.page import write_page
from jobs.cli import main
from jobs.shards import build_from
from shards.cells import unquoted
from shards.manifest import Manifest, read_manifest
from shards.reading.reader import Reader

HOSTILE = ["</script><script>alert(1)", '"><img src=x onerror=alert(1)>', "=1+1", "@SUM(A1)"]


@pytest.fixture(scope="module")
def planted(guide: Manifest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of classes with hostile names: the guide's birds, a copy across splits, one within, near copies."""
    root = tmp_path_factory.mktemp("planted") / "raw"
    reader = Reader(guide)
    folders = ["script", "img", "=1+1", "@SUM"]
    for index, entry in enumerate(guide.entries):
        target = root / entry.split / folders[entry.label] / f"{entry.key}.jpg"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(reader.read(index))
    birds = sorted((root / "train/script").iterdir())
    (root / "test/script/copy_a.jpg").write_bytes(birds[0].read_bytes())
    (root / "train/script/copy_b.jpg").write_bytes(birds[1].read_bytes())
    (root / "train/img/copy_c.jpg").write_bytes(birds[2].read_bytes())  # under another label
    for number, bird in enumerate(birds[3:6]):
        image = Image.open(bird).convert("RGB")
        image = ImageOps.mirror(image) if number == 1 else image
        image = image.resize((image.width * 3 // 4, image.height * 3 // 4)) if number == 2 else image
        image.save(root / f"train/script/near_{number}.jpg", quality=70)
    return root


@pytest.fixture(scope="module")
def audited(planted: Path) -> Path:
    """The run folder of an audit."""
    home = planted.parent
    assert main(["shards", "build", "image_folder", str(planted), str(home / "shards"), "min_shards=1"]) == 0
    words = ["model.name=test_resnet", "model.weights=none", "size=64", "data.workers=0", "near=0.95", "doubt=2"]
    assert main(["audit", str(home / "shards"), f"runs_dir={home / 'runs'}", "pictures=20", *words]) == 0
    return home / "runs/audit/shards"


def short(key: str) -> str:
    return key.rpartition("__")[2]


def test_copies_are_found_across_splits_and_within(audited: Path) -> None:
    found = json.loads((audited / "findings.json").read_text())
    exact = [[short(key) for key in group] for group in found["exact"]]
    assert sorted(group[1] if group[1].startswith("copy") else group[0] for group in exact) == [
        "copy_a",
        "copy_b",
        "copy_c",
    ]
    near = {short(key) for pair in found["near"] for key in pair[:2] if short(key).startswith("near")}
    assert near == {"near_0", "near_1", "near_2"}
    figures = json.loads((audited / "result.json").read_text())["all"]
    assert (figures["exact"], figures["near"]) == (3, len(found["near"]))
    assert figures["across"] >= 1


def test_a_debug_run_takes_seconds_and_images_few(planted: Path, audited: Path, tmp_path: Path) -> None:
    words = ["audit", str(planted.parent / "shards"), "--on", "debug", f"runs_dir={tmp_path}"]
    found = []
    for _ in range(2):  # the network's random weights are the same ones
        assert main([*words, "model.name=test_resnet", "model.weights=none", "size=32", "doubt=1.2"]) == 0
        found.append((tmp_path / "audit/shards-debug/corrections.csv").read_text())
    assert found[0] == found[1]
    assert "relabel?" in found[0]
    assert json.loads((tmp_path / "audit/shards-debug/result.json").read_text())["all"]["images"] == 64


def test_only_certain_things_are_dropped_unread(audited: Path) -> None:
    rows = {short(row["key"]): row for row in csv.DictReader((audited / "corrections.csv").open())}
    (dropped,) = (row for row in rows.values() if row["split"] == "train" and "copy_a" in row["why"])
    assert dropped["action"] == "drop"  # the one in test stays
    assert sum(row["action"] == "drop" for row in rows.values()) == 2
    assert all(row["action"] == "keep" for row in rows.values() if row["why"].endswith(("img", "script", "it")))
    assert any(row["why"].startswith("drop? looks like") for row in rows.values())


def test_near_copies_of_exact_ones_are_those_of_the_one_that_stays(guide: Manifest) -> None:
    """A training image and its copy in test, both near another training image: that one leaks into test."""
    train, near, test = guide.split("train")[0], guide.split("train")[1], guide.split("test")[0]
    found = Findings(guide, 3, exact=[[train, test]], classes=[("wren", 3)])
    found.set_near([Pair(train, test, 1.0), Pair(train, near, 0.97), Pair(near, test, 0.97)])
    assert found.near == [Pair(near, test, 0.97)]
    assert (found.figures()["near"], found.figures()["across"]) == (1, 2)
    (dropped, kept) = csv.DictReader(found.corrections().splitlines())
    key = guide.entries.key
    assert dropped["key"] == key(train)
    assert (kept["key"], kept["why"]) == (key(near), f"drop? looks like {key(test)} (test)")


def test_builds_take_the_corrections(
    planted: Path, audited: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    before = read_manifest(planted.parent / "shards")
    rows = list(csv.DictReader((audited / "corrections.csv").open()))
    key = next(entry.key for entry in before.entries if entry.split == "train" and before.classes[entry.label] == "img")
    rows.append({"key": key, "action": "relabel", "label": "'=1+1"})
    with (tmp_path / "mine.csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, ["key", "action", "label", "now", "split", "why", "score"])
        writer.writeheader()
        writer.writerows(rows)
    words = ["shards", "build", "image_folder", str(planted), str(tmp_path / "out"), "min_shards=1"]
    capsys.readouterr()
    assert main([*words, f"corrections={tmp_path / 'mine.csv'}"]) == 0
    out = capsys.readouterr().out
    assert "dropped: 2" in out
    assert "relabelled: 1" in out
    after = read_manifest(tmp_path / "out")
    assert len(after.entries) == len(before.entries) - 2
    assert after.classes[after.entries[after.entries.position[key]].label] == "=1+1"
    same = {entry.key: entry.label for entry in before.entries} | {key: after.classes.index("=1+1")}
    assert all(same[entry.key] == entry.label for entry in after.entries)
    assert main(words) == 2  # other shards than without corrections
    assert "holds other shards" in capsys.readouterr().err


def test_mistakes_in_corrections_are_named(planted: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    key = read_manifest(planted.parent / "shards").entries.key(0)
    (tmp_path / "bad.csv").write_text(
        f"key;action;label\nnobody;drop;\n{key};burn;\n{key};relabel;dodo\n{key};drop;\n{key};relabel;img\n"
    )
    words = ["shards", "build", "image_folder", str(planted), str(tmp_path / "out")]
    assert main([*words, f"corrections={tmp_path / 'bad.csv'}"]) == 2
    error = capsys.readouterr().err
    for message in (
        "4 problems",
        "no such picture: bad.csv:2",
        "no such action (keep, drop, relabel)",
        "no such class",
        "two different",
    ):
        assert message in error
    assert main([*words, f"corrections={tmp_path / 'none.csv'}"]) == 2
    assert "none.csv: no such file; it must be a CSV with the columns key,action,label" in capsys.readouterr().err


def test_a_relabelled_bird_is_still_the_same_picture(tmp_path: Path) -> None:
    settings = ["species=2", "train_per_class=17", "test_per_class=1", "size=32"]
    build_from("field_guide", "-", tmp_path / "plain", settings)
    (tmp_path / "fix.csv").write_text("key,action,label\ntrain_000_00003,relabel,Northern Thrush\n")
    plain = read_manifest(tmp_path / "plain")
    (tmp_path / "fix.csv").write_text(f"key,action,label\ntrain_000_00003,relabel,{plain.classes[1]}\n")
    build_from("field_guide", "-", tmp_path / "fixed", [*settings, f"corrections={tmp_path / 'fix.csv'}"])
    fixed = read_manifest(tmp_path / "fixed")
    places = [manifest.entries.position["train_000_00003"] for manifest in (plain, fixed)]
    assert [int(m.entries.label[at]) for m, at in zip((plain, fixed), places, strict=True)] == [0, 1]
    assert Reader(plain).read(places[0]) == Reader(fixed).read(places[1])
    assert fixed.plan != plain.plan


def test_wrong_labels_among_many_are_found() -> None:
    """1,500 points of 30 classes that overlap as fine-grained ones do, 20 of them labelled as another class."""
    draw = np.random.default_rng(0)
    truth = np.repeat(np.arange(30), 50)
    centres = draw.normal(size=(30, 24))
    features, mirrored = (centres[truth] + 0.5 * draw.normal(size=(1500, 24)) for _ in range(2))
    labels, wrong = truth.copy(), draw.choice(1500, 20, replace=False)
    labels[wrong] = (truth[wrong] + draw.integers(1, 30, 20)) % 30
    folds = draw.permutation(1500) % 5
    probabilities = out_of_fold(features.astype(np.float32), mirrored.astype(np.float32), labels, folds, 30, 0.2)
    assert probabilities.sum(1) == pytest.approx(np.ones(1500))
    found = doubtful(probabilities, labels, 50)
    rows = [doubt.row for doubt in found]
    right = set(rows) & set(wrong.tolist())
    assert len(right) >= 18
    assert len(right) >= 0.8 * len(rows)
    assert [doubt.odds for doubt in found] == sorted((doubt.odds for doubt in found), reverse=True)
    assert np.mean([truth[doubt.row] == doubt.suggested for doubt in found if doubt.row in right]) > 0.9


def test_near_pairs_are_not_two_birds_of_a_species(guide: Manifest) -> None:
    """Features that cannot tell birds of a species apart: the small copies do."""
    reader, indices = Reader(guide), list(range(40))
    features = np.eye(4, dtype=np.float32)[guide.entries.label[:40]]
    assert near_pairs(features, features, reader, indices, 0.95) == ([], 0)
    assert exact_groups(reader, [*indices, 0]) == [[0, 0]]


def test_only_the_nearest_are_compared(guide: Manifest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Features that take the birds of either half for one another; the last of the first half is its first again."""
    indices = [0, 5, 6, 7, 8, 0, *range(40, 46)]
    features = np.eye(12, dtype=np.float32) * 0.3
    features[5] = features[0]
    features[:, 0] = np.repeat([3, -3], 6)
    monkeypatch.setattr(duplicates, "MOST", 1)
    monkeypatch.setattr(duplicates, "COPIES", 2)
    pairs, cut_short = near_pairs(features, features, Reader(guide), indices, 0.99)
    assert [(pair.first, pair.second) for pair in pairs] == [(0, 0)]
    assert cut_short == 8


def test_a_chain_of_copies_lies_in_one_fold() -> None:
    """Joined late: 10-11, 12-13, then 11-13 and 13-14; whichever way the pairs are listed."""
    folds, indices = np.array([0, 1, 2, 3, 4, 2]), [10, 11, 12, 13, 14, 15]
    for pairs in ([(10, 11), (12, 13), (13, 14), (11, 13)], [(13, 14), (12, 13), (11, 13), (10, 11)]):
        assert kept_together(folds, pairs, indices).tolist() == [0, 0, 0, 0, 0, 2]
    assert kept_together(folds, [], indices).tolist() == folds.tolist()


def test_odd_boxes(guide: Manifest) -> None:
    entries = list(guide.entries)
    width, height = entries[1].width, entries[1].height
    strange = {
        0: (0.0, 0.0, 2.0, 2.0), 1: (0.0, 0.0, float(width), float(height)), 2: (-5.0, 3.0, 40.0, 40.0),
        3: (1.0, 10.0, 47.0, 14.0),
    }  # fmt: skip
    for index, box in strange.items():
        entries[index] = replace(entries[index], boxes=(box,))
    entries[4] = replace(entries[4], boxes=())
    found = odd_boxes(replace(guide, entries=tuple(entries)), np.arange(20))
    assert {(odd.index, odd.why) for odd in found} == {
        (0, "tiny"), (1, "the whole image"), (2, "reaches out of the image"), (3, "very thin"),
        (4, "no box, where others have one"),
    }  # fmt: skip
    assert odd_boxes(guide, np.arange(20)) == []


def test_class_names_are_text_in_page_and_csv(guide: Manifest, tmp_path: Path) -> None:
    manifest = replace(guide, classes=tuple(HOSTILE))
    found = Findings(
        manifest,
        108,
        [[0, 1]],
        labels=[Label(index, 3 - manifest.entries[index].label, 90.0) for index in (0, 30, 50, 70)],
    )
    found.classes = [(name, 27) for name in HOSTILE]
    write_page(tmp_path / "index.html", found, HOSTILE[0], 10)
    page = (tmp_path / "index.html").read_text()
    assert "<script" not in page
    assert not re.search(r"<img(?! src=\"data:image/jpeg;base64,)", page)
    assert "&lt;/script&gt;&lt;script&gt;alert(1)" in page
    assert "default-src &#39;none&#39;" in page or "default-src 'none'" in page
    rows = list(csv.reader(found.corrections().splitlines()))
    cells = [cell for row in rows for cell in row]
    assert not any(cell.startswith(("=", "+", "-", "@")) for cell in cells)
    assert {unquoted(cell) for cell in cells} >= {"=1+1", "@SUM(A1)"}
