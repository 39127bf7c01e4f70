"""What comes from elsewhere (manifests, boxes layers) leads to no file outside its folder and to no traceback."""

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jobs.shards import main
from shards.boxes_layer import read_layer, write_layer
from shards.errors import UserError
from shards.manifest import MANIFEST, Manifest, read_manifest, write_manifest
from shards.reading.reader import Reader


@pytest.fixture
def crafted(guide: Manifest, tmp_path: Path) -> Callable[..., Path]:
    """A copy of the guide's manifest with a change, alone in a folder two levels below the test's."""

    def make(change: Callable[[dict], Any]) -> Path:
        document = json.loads((guide.folder / MANIFEST).read_text())
        change(document)
        folder = tmp_path / "deep/shards"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / MANIFEST).write_text(json.dumps(document))
        return folder

    return make


OUTSIDE = ["../evil", "/tmp/evil", "..", "a/b", "a\\b", "", "x\0y", "x\ny", "é", "." * 9, "a" * 200, 7, None, ["k"]]


@pytest.mark.parametrize("name", OUTSIDE)
@pytest.mark.parametrize("place", ["key", "shard", "split", "sha256"])
def test_no_name_leads_out_of_a_folder(crafted, tmp_path, name, place, capsys):
    def change(document: dict) -> None:
        if place == "key":
            document["entries"][0]["key"] = name
        elif place == "split":
            document["entries"][0]["split"] = document["shards"][0]["split"] = name
        else:
            text = f"{name}.tar" if place == "shard" and isinstance(name, str) else name
            document["shards"][0]["name" if place == "shard" else "sha256"] = text

    folder = crafted(change)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UserError, match=r"manifest\.json: damaged ") as caught:
        main(["coco", str(folder), str(tmp_path / "deep/coco")])
    assert str(caught.value).isprintable()
    with pytest.raises(UserError):
        Reader(read_manifest(folder), str(tmp_path / "cache")).read(0)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    "change",
    [
        lambda d: d["classes"].__setitem__(0, "\x1b[2Jred"), lambda d: d["entries"][0].update(origin="gan:\n"),
        lambda d: d["entries"][0].update(label=99), lambda d: d["entries"][0].update(label=-1),
        lambda d: d["entries"][0].update(label=True), lambda d: d["entries"][0].update(offset=-1),
        lambda d: d["entries"][0].update(length=2**70), lambda d: d["entries"][0].update(boxes=[[1, 2, 3]]),
        lambda d: d["entries"][0].update(boxes=[[1, 2, 3, 1e999]]), lambda d: d["entries"][0].update(boxes=7),
        lambda d: d["entries"][0].update(boxes=[[50, 30, 10, 10]]),
        lambda d: d["entries"][0].update(parts={"\x07": [1, 2]}), lambda d: d["entries"][0].update(width=0),
        lambda d: d.update(duplicates=[[0, 10**9]]), lambda d: d.update(notes=[1]), lambda d: d.update(extra="x"),
        lambda d: d.update(source=5), lambda d: d.update(stranger=1), lambda d: d.update(classes=5),
    ],
)  # fmt: skip
def test_values_that_no_build_writes_are_refused(crafted, change):
    folder = crafted(change)
    with pytest.raises(UserError, match="damaged") as caught:
        read_manifest(folder)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("values", [{"offset": 10**12}, {"length": 10**15}, {"shard": 99}])
def test_reads_outside_a_shard_are_refused(guide, values):
    entries = (replace(guide.entries[0], **values), *guide.entries[1:])
    with pytest.raises(UserError, match="run fgvc shards verify"):
        Reader(replace(guide, entries=entries)).read(0)


def test_an_older_manifest_is_read(guide, tmp_path):
    assert "duplicates" not in json.loads((guide.folder / MANIFEST).read_text())
    write_manifest(replace(guide, folder=tmp_path, duplicates=((0, 3), (5, 6, 7))))
    assert read_manifest(tmp_path).duplicates == ((0, 3), (5, 6, 7))


def test_no_nesting_and_no_number_is_too_much_for_a_boxes_layer(guide, tmp_path):
    path = tmp_path / "boxes.jsonl"
    write_layer(path, guide, {guide.entries[0].key: [(1, 2, 30, 40, 0.5)]}, {})
    header, line = path.read_text().splitlines()
    for damaged in (
        "[" * 100_000,
        line.replace("0.5", "1" + "0" * 400),
        line.replace("0.5", "true, 1"),
        line[:-1] + "\0",
    ):
        path.write_text(f"{header}\n{damaged}\n")
        with pytest.raises(UserError) as caught:
            read_layer(path, guide)
        assert str(caught.value).isprintable()


scalars = st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=9)
values = st.recursive(scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner))


@given(path=st.lists(st.integers(0, 20), min_size=1, max_size=5), value=values)
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_value_anywhere_in_a_manifest(guide, tmp_path, path, value):
    """Either it is refused in one line, or what was read can be listed and exported."""
    document = json.loads((guide.folder / MANIFEST).read_text())
    document["entries"], node = document["entries"][:3], document
    for step in path[:-1]:
        child = node[sorted(node)[step % len(node)] if isinstance(node, dict) else step % len(node)] if node else None
        node = child if isinstance(child, dict | list) and child else node
    if isinstance(node, dict | list) and node:
        node[sorted(node)[path[-1] % len(node)] if isinstance(node, dict) else path[-1] % len(node)] = value
    (tmp_path / MANIFEST).write_text(json.dumps(document))
    outside, refusal = set(tmp_path.parent.iterdir()), ""
    try:
        main(["list", str(tmp_path)])
        main(["coco", str(tmp_path), str(tmp_path / "coco"), "--no-images"])
    except UserError as error:
        refusal = str(error)
    assert refusal == "" or refusal.isprintable()
    assert set(tmp_path.parent.iterdir()) == outside


def test_a_pipe_in_place_of_a_shard_is_not_waited_for(crafted):
    folder = crafted(lambda d: None)
    for shard in read_manifest(folder).shards:
        os.mkfifo(folder / shard.name)
    for words in (["show", str(folder)], ["coco", str(folder), str(folder / "coco")]):
        with pytest.raises(UserError, match=r"\.tar: not a regular file"):
            main(words)


@pytest.mark.parametrize("asked", [{"options": 3}, {"options": [1], "source": ["\x1b[31m"]}, {"count": "\x1b[31m"}])
def test_a_build_beside_a_manifest_that_asked_for_anything(crafted, asked):
    folder = crafted(lambda d: d.update(asked=asked))
    with pytest.raises(UserError, match="holds other shards: ") as caught:
        main(["build", "field_guide", "-", str(folder), "train_per_class=1", "test_per_class=1", "workers=1"])
    assert str(caught.value).isprintable()
