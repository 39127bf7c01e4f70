"""Readers of COCO, VOC and CSV on files of any contents: a dataset or one line, never another error."""

import copy
import csv
import io
import json
import string
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from made_trees import make_folder, voc

from shards.errors import UserError
from shards.sources import coco, image_folder
from shards.sources.coco import Options as CocoOptions
from shards.sources.image_folder import Options as FolderOptions

few = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
scalars = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
    | st.sampled_from(["..", "../x.jpg", "/etc/passwd", "\x1b[2J", "0.jpg", "\ud800", 10**400, 1e308, -0.0, "train"])
)  # fmt: skip
values = st.recursive(scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner))
steps = st.lists(st.integers(0, 50), min_size=1, max_size=6)


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("any") / "photos"
    make_folder(root, classes=2, per_class=3)
    return root


def put(document: Any, path: list[int], value: Any) -> Any:
    """A copy of a JSON document with `value` somewhere in it."""
    document = copy.deepcopy(document)
    node, parent, key = document, None, None
    for step in path:
        if not isinstance(node, dict | list) or not node:
            break
        parent, key = node, sorted(node)[step % len(node)] if isinstance(node, dict) else step % len(node)
        node = parent[key]
    if parent is not None:
        parent[key] = value
    return document


def one_line(read) -> None:
    """`read` ends well or in one printable line, and leaves the folder as it was."""
    message = ""
    try:
        read()
    except UserError as error:
        message = str(error)
    assert message.isprintable()


DOCUMENT = {
    "images": [
        {"id": i, "file_name": f"{name}/{i % 3}.jpg", "width": 64, "height": 64, "parts": {"eye": [1, 2]}}
        for i, name in enumerate(["Black_footed_Albatross"] * 3 + ["Indigo_Bunting"] * 3)
    ],
    "annotations": [{"image_id": i, "category_id": i // 3, "bbox": [1, 2, 30, 40]} for i in range(6)],
    "categories": [{"id": 0, "name": "a"}, {"id": 1, "name": "b"}],
}


@given(path=steps, value=values)
@few
def test_any_value_anywhere_in_coco(photos, path, value):
    text = json.dumps(put(DOCUMENT, path, value))
    (photos.parent / "boxes.json").write_text(text)
    one_line(lambda: image_folder.scan(photos, FolderOptions(boxes=str(photos.parent / "boxes.json"))))
    (photos.parent / "annotations").mkdir(exist_ok=True)
    (photos.parent / "annotations/train.json").write_text(text)
    one_line(lambda: coco.scan(photos.parent, CocoOptions(images="photos")))


def test_coco_as_it_is_is_read(photos):
    """What the test above changes is a valid file, so that it reaches more than the first check."""
    (photos.parent / "boxes.json").write_text(json.dumps(DOCUMENT))
    dataset = image_folder.scan(photos, FolderOptions(boxes=str(photos.parent / "boxes.json")))
    assert [sample.boxes for sample in dataset.samples] == [((1, 2, 31, 42),)] * 6


@given(cut=st.integers(0, 600), junk=st.binary(max_size=20))
@few
def test_any_bytes_in_voc(photos, cut, junk):
    text = voc("0.jpg", "Indigo_Bunting", (64, 64), [(1, 2, 30, 40), (5, 5, 9, 9)]).encode()
    folder = photos.parent / "voc"
    folder.mkdir(exist_ok=True)
    (folder / "0.xml").write_bytes(text[: cut % len(text)] + junk + text[cut % len(text) :])
    one_line(lambda: image_folder.scan(photos, FolderOptions(boxes=str(folder))))


cells = st.text(string.printable + "éß\0\u2028", max_size=12) | st.sampled_from(
    ["Indigo_Bunting/0.jpg", "0.jpg", "train", "test", "1e999", "nan", "-1", "0.5", '"', "../x", "\x1b[2J"]
)


@given(rows=st.lists(st.lists(cells, max_size=7), max_size=8), joined=st.booleans(), mark=st.sampled_from(",;\t|"))
@few
def test_any_table(photos, rows, joined, mark):
    stream = io.StringIO()
    if joined:  # as broken programs write it, without quotes
        stream.write("\n".join(mark.join(row) for row in rows))
    else:
        csv.writer(stream, delimiter=mark, escapechar="\\").writerows(rows)
    for header, option in (("file,split", "split_csv"), ("file,x0,y0,x1,y1", "boxes")):
        table = photos.parent / f"{option}.csv"
        table.write_bytes(f"{header.replace(',', mark)}\n{stream.getvalue()}".encode("utf-8", "surrogatepass"))
        one_line(lambda option=option, table=table: image_folder.scan(photos, FolderOptions(**{option: str(table)})))
