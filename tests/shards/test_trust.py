"""What comes from elsewhere (manifests, boxes layers) leads to no file outside its folder and to no traceback."""

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from manifests import damaged_columns, format_1, manifest_in

from jobs.shards import main
from shards.boxes_layer import read_layer, write_layer
from shards.errors import UserError
from shards.manifest import COLUMNS, MANIFEST, Manifest, read_manifest, write_manifest
from shards.reading.reader import Reader


@pytest.fixture
def crafted(guide: Manifest, tmp_path: Path) -> Callable[..., Path]:
    """The guide's manifest of format 1 with a change, alone in a folder two levels below the test's."""

    def make(change: Callable[[dict], Any]) -> Path:
        document = format_1(guide)
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


def put(column: str, row: Any, value: Any) -> Callable[[dict[str, np.ndarray]], None]:
    """A change of one value of a column."""
    return lambda columns: columns[column].__setitem__(row, value)


def become(column: str, change: Callable[[np.ndarray], np.ndarray]) -> Callable[[dict[str, np.ndarray]], None]:
    """A change of a whole column."""
    return lambda columns: columns.update({column: np.ascontiguousarray(change(columns[column]))})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (put("keys", 5, ord("/")), "keys, row 5"), (put("keys", 0, ord(".")), "keys, row 0"),
        (put("keys", 1, 0), "keys"), (put("keys", 1, 200), "keys"), (put("key_starts", 1, 0), "length of key, row 0"),
        (put("key_starts", 0, 1), "key_starts"), (put("key_starts", -1, 2**40), "key_starts"),
        (put("key_starts", 7, -(2**40)), "key_starts, row 6"), (become("key_starts", lambda v: v[:-1]), "key_starts"),
        (put("key_starts", slice(1, 20), 0), "length of key, row 0"),
        (put("label", 3, 4), "label, row 3"), (put("label", 3, -1), "label"), (put("split", 3, 3), "split"),
        (put("shard", 3, -1), "shard"), (put("offset", 3, -1), "offset"), (put("length", 3, 2**63 - 1), "length"),
        (put("width", 3, 0), "width"), (put("height", 107, -5), "height, row 107"), (put("origin", 3, 1), "origin"),
        (put("origin", 3, -1), "origin"), (put("boxes", (9, 2), np.nan), "box, row 9"),
        (put("boxes", (9, 2), np.inf), "box"), (put("boxes", (9, 1), 1e9), "box"),
        (put("box_starts", 9, 1), "box_starts"), (put("box_starts", -1, 0), "box_starts"),
        (put("part_names", 3, 99), "part"), (put("part_names", 3, -1), "part"),
        (put("part_points", (3, 0), np.inf), "part"), (put("part_starts", 4, 10**9), "part_starts"),
        (become("part_points", lambda v: v[:-1]), "part_points"), (become("label", lambda v: v[:-1]), "number of rows"),
        (become("label", lambda v: v.astype(np.int64)), "column label"),
        (become("boxes", lambda v: v[:, :3]), "boxes"),
        (become("split", lambda v: v[:, None]), "column split"), (become("width", np.float64), "column width"),
        (lambda columns: columns.pop("origin"), "column origin"),
        (lambda columns: columns.update(more=np.zeros(2)), "number of columns"),
        (lambda columns: columns.update({name: values[:0] for name, values in columns.items()}), "number of rows"),
    ],
)  # fmt: skip
def test_columns_that_no_build_writes_are_refused(guide, tmp_path, change, message):
    damaged_columns(guide, tmp_path, change)
    with pytest.raises(UserError, match=r"manifest\.json: damaged ") as caught:
        read_manifest(tmp_path)
    assert message in str(caught.value)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    "change",
    [
        lambda d: d["entries"].update(parts=["\x07"]), lambda d: d["entries"].update(origins=["gan:\n"]),
        lambda d: d["entries"].update(origins=[]), lambda d: d["entries"].update(parts=7),
        lambda d: d["entries"].update(parts=[None]), lambda d: d["entries"].update(size=1),
        lambda d: d["entries"].update(sha256="../evil"), lambda d: d["entries"].update(counts={"train": 108}),
        lambda d: d["entries"].update(count=True), lambda d: d["entries"].pop("count"),
        lambda d: d.update(entries={}), lambda d: d.update(entries=[]), lambda d: d.update(entries="../evil"),
        lambda d: d.update(entries=None), lambda d: d.update(format=3), lambda d: d.update(format=[]),
        lambda d: d.update(duplicates=[[0, 108]]), lambda d: d.update(folder="/tmp/evil"),
    ],
)  # fmt: skip
def test_heads_that_do_not_fit_their_columns_are_refused(guide, tmp_path, change):
    write_manifest(manifest_in(guide, tmp_path))
    head = json.loads((tmp_path / MANIFEST).read_text())
    change(head)
    (tmp_path / MANIFEST).write_text(json.dumps(head))
    with pytest.raises(UserError, match=r"manifest\.json: (damaged|another format)") as caught:
        read_manifest(tmp_path)
    assert str(caught.value).isprintable()


def test_columns_that_are_cut_off_missing_or_no_file(guide, tmp_path):
    write_manifest(manifest_in(guide, tmp_path))
    path = tmp_path / COLUMNS
    whole = path.read_bytes()
    for data in (b"", whole[:-1], whole[:8], whole + b"\0", b"\xff" * len(whole), whole[:300] + b"}" + whole[301:]):
        path.write_bytes(data)
        with pytest.raises(UserError, match="damaged"):
            read_manifest(tmp_path)
    path.unlink()
    with pytest.raises(UserError, match=r"entries\.safetensors: No such file"):
        read_manifest(tmp_path)
    os.mkfifo(path)
    with pytest.raises(UserError, match=r"damaged .*no file"):
        read_manifest(tmp_path)


def test_an_older_manifest_is_read(guide, tmp_path):
    """Format 1, with and without duplicates, is what the columns hold."""
    for duplicates in ((), ((0, 3), (5, 6, 7))):
        older = replace(guide, duplicates=duplicates)
        (tmp_path / MANIFEST).write_text(json.dumps(format_1(older)))
        found = read_manifest(tmp_path)
        assert replace(found, folder=guide.folder) == older
        assert found.fingerprint == guide.fingerprint


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
    document = format_1(guide)
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
