"""Damages manifests, their columns, boxes layers, weights' metadata, COCO, VOC and CSV files at random and reads them.

    python benchmarks/fuzz_readers.py coco --minutes 10 --seed 1

It always ends in a result or in one line. Another error than UserError, a message that is not one printable line, or a
file outside the reader's own output folder ends the run: the damaged file is kept and its step printed.
Kinds: manifest, columns, layer, weights, coco, voc, csv.
"""

import argparse
import copy
import csv
import io
import json
import logging
import os
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import numpy as arrays
from safetensors.torch import save

from fgvc.classification.evaluation import about
from fgvc.models.config import ModelConfig
from fgvc.models.export import KEY
from fgvc.models.timm import create_model
from jobs.evaluate import Config as EvaluateConfig
from jobs.shards import build_from, main
from jobs.tasks.evaluate import run as evaluate
from shards.boxes_layer import read_layer, write_layer
from shards.errors import UserError
from shards.manifest import COLUMNS, MANIFEST, Manifest, read_manifest
from shards.reading.config import DataConfig, ImageConfig
from shards.reading.reader import Reader
from shards.verify import verify

WORDS = [
    None, True, 0, -1, 1, 2**63, 10**400, 0.5, 1e308, float("nan"), float("inf"), "", "..", "../evil", "/tmp/evil",
    "\x1b[2J", "a\nb", "\0", "\ud800", "é", "e\u0301", "train", "x" * 5000, [], {}, [[]], [1, 2, 3, 4], {"a": {}},
]  # fmt: skip
BYTES = [
    b"",
    b"\0",
    b"\xff",
    b"\r",
    b'"',
    b",",
    b";",
    b"<",
    b"&x;",
    b"[" * 3000,
    b"]]>",
    b"../",
    b"\xef\xbb\xbf",
    b"-1",
]


def damage_json(text: str, rng: random.Random) -> bytes:
    """Some values of a document replaced, left out or doubled; sometimes bytes too."""
    document = json.loads(text)
    for _ in range(rng.choice([1, 1, 1, 2, 5])):
        node: Any = document
        for _ in range(rng.randint(0, 6)):
            inner = list(node.values()) if isinstance(node, dict) else node
            inner = [child for child in inner if isinstance(child, dict | list) and child]
            if not inner:
                break
            node = rng.choice(inner)
        if not node:
            continue
        key = rng.choice(list(node)) if isinstance(node, dict) else rng.randrange(len(node))
        change = rng.random()
        if change < 0.15:
            del node[key]
        elif change < 0.3 and isinstance(node, list):
            node.append(node[key])
        else:
            node[key] = copy.deepcopy(rng.choice(WORDS))
    data = json.dumps(document).encode()
    return damage_bytes(data, rng) if rng.random() < 0.1 else data


def damage_bytes(data: bytes, rng: random.Random) -> bytes:
    """A few pieces cut out, doubled or put in."""
    for _ in range(rng.choice([1, 1, 2, 4])):
        at, length = rng.randrange(len(data) + 1), rng.randrange(12)
        piece = rng.choice([b"", data[at : at + length] * 2, rng.choice(BYTES), rng.randbytes(length)])
        data = data[:at] + piece + data[at + rng.choice([0, length]) :]
    return data


def damage_columns(data: bytes, rng: random.Random) -> bytes:
    """Some values of some columns replaced, rows cut off or doubled, types changed; sometimes bytes instead."""
    if rng.random() < 0.2:
        return damage_bytes(data, rng)
    columns = arrays.load(data)
    for _ in range(rng.choice([1, 1, 1, 2, 5])):
        name = rng.choice(sorted(columns))
        column, change = columns[name].copy(), rng.random()
        if change < 0.7 and column.size:
            value = rng.choice([0, 1, -1, 2, 255, 2**31 - 1, 2**40, 2**63 - 1, -(2**63), rng.randrange(200)])
            value = rng.choice([np.nan, np.inf, -1e308, 0.5, value]) if column.dtype.kind == "f" else value
            with np.errstate(all="ignore"):
                column.reshape(-1)[rng.randrange(column.size)] = np.array(value).astype(column.dtype)
            columns[name] = column
        elif change < 0.8:
            columns[name] = column[: rng.randrange(len(column) + 1)].copy()
        elif change < 0.9:
            columns[name] = np.concatenate([column, column[:1]])
        elif change < 0.95:
            columns[name] = column.astype(rng.choice(["u1", "i4", "i8", "f4", "f8"]))
        else:
            del columns[name]
    return arrays.save(columns)


def targets(base: Path, guide: Manifest) -> dict[str, tuple[Path, Callable, Callable[[], None]]]:
    """Kind -> the file to damage, how, and the reading of it. Reading may write below `base`/out only."""
    photos, out = base / "photos", base / "out"
    main(["coco", str(guide.folder), str(base / "coco")])
    names, rows = [], []
    for entry in guide.entries:
        name = f"{guide.classes[entry.label]}/{entry.key}.jpg".replace(" ", "_")
        (photos / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(base / "coco/images" / f"{entry.key}.jpg", photos / name)
        names.append(name)
        rows.append([name, *entry.boxes[0], entry.split])
        file = base / "voc" / name.replace(".jpg", ".xml")
        file.parent.mkdir(parents=True, exist_ok=True)
        corners = zip(("xmin", "ymin", "xmax", "ymax"), entry.boxes[0], strict=True)
        box = "".join(f"<{side}>{value}</{side}>" for side, value in corners)
        size = f"<size><width>{entry.width}</width><height>{entry.height}</height></size>"
        head = f'<?xml version="1.0" encoding="utf-8"?><annotation><filename>{entry.key}.jpg</filename>{size}'
        file.write_text(f"{head}<object><name>bird</name><bndbox>{box}</bndbox></object></annotation>")
    stream = io.StringIO()
    csv.writer(stream).writerows([["file", "x0", "y0", "x1", "y1", "split"], *rows])
    (base / "table.csv").write_text(stream.getvalue())
    layer = base / "layer.jsonl"
    write_layer(layer, guide, {entry.key: [(*entry.boxes[0], 0.5)] for entry in guide.entries}, {"job": "fuzz"})

    def manifest() -> None:
        main(["show", str(guide.folder), "-"])
        main(["list", str(guide.folder)])
        main(["coco", str(guide.folder), str(out / "coco")])
        found = read_manifest(guide.folder)
        cached = Reader(found, str(out / "cache"))
        for index in range(len(found.entries)):
            cached.read(index)
        verify(guide.folder, workers=1)

    def columns() -> None:
        """With a head that says the damaged file's size, or all would be refused for it."""
        head = json.loads((guide.folder / MANIFEST).read_text())
        head["entries"]["size"] = (guide.folder / COLUMNS).stat().st_size
        (guide.folder / MANIFEST).write_text(json.dumps(head))
        manifest()

    def folder(*settings: str) -> None:
        build_from("image_folder", photos, out / "shards", [*settings, "workers=1"])

    def coco() -> None:
        build_from("coco", base / "coco", out / "shards", ["workers=1"])

    def table() -> None:
        folder(f"boxes={base / 'table.csv'}", f"split_csv={base / 'table.csv'}")

    facts, weights = base / "facts.json", base / "model.safetensors"
    network = create_model(ModelConfig("test_resnet", "none"), len(guide.classes))
    record = {"name": "test_resnet", "kwargs": {}, "caffe_stride": False}
    centre = torch.full((1, 3, 1, 1), 0.5)
    about_it = about(guide, record, ImageConfig(), DataConfig(), centre, centre, 32, 1.5, [])
    facts.write_text(json.dumps(about_it))
    weights.touch()

    def classifier() -> None:
        said = facts.read_bytes().decode(errors="replace")
        weights.write_bytes(save(network.state_dict(), metadata={KEY: said}))
        config = EvaluateConfig(name="a", runs_dir=str(out), weights=str(weights))
        config.data.shards, config.data.workers = str(guide.folder), 0
        evaluate(config)

    voc = base / "voc" / names[0].replace(".jpg", ".xml")
    return {
        "manifest": (guide.folder / MANIFEST, damage_json, manifest),
        "columns": (guide.folder / COLUMNS, damage_columns, columns),
        "layer": (layer, lambda text, rng: damage_bytes(text.encode(), rng), lambda: _read(layer, guide)),
        "weights": (facts, damage_json, classifier),
        "coco": (base / "coco/annotations/train.json", damage_json, coco),
        "voc": (voc, lambda text, rng: damage_bytes(text.encode(), rng), lambda: folder(f"boxes={base / 'voc'}")),
        "csv": (base / "table.csv", lambda text, rng: damage_bytes(text.encode(), rng), table),
    }


def _read(path: Path, guide: Manifest) -> None:
    read_layer(path, guide)


def fuzz(kind: str, minutes: float, seed: int) -> int:
    """Damage and read until the time is over; how many files were refused, of how many, is printed."""
    base = Path(tempfile.mkdtemp(prefix="fuzz-")) / "inner"
    small = ["species=2", "train_per_class=4", "test_per_class=2", "size=32", "min_shards=1", "workers=1"]
    build_from("field_guide", "-", base / "guide", small)
    guide = read_manifest(base / "guide")
    path, damage, read = targets(base, guide)[kind]
    data = path.read_bytes()
    text: Any = data if kind == "columns" else data.decode()
    before = _tree(base)
    end, step, refused = time.monotonic() + 60 * minutes, 0, 0
    while time.monotonic() < end:
        step += 1
        path.write_bytes(damage(text, random.Random(f"{seed} {kind} {step}")))
        try:
            with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
                read()
        except UserError as error:
            refused += 1
            if not str(error).isprintable():
                print(f"{kind} seed {seed} step {step}: a message that is not one printable line: {error!r}; {path}")
                return 1
        except BaseException as error:
            print(f"{kind} seed {seed} step {step}: {type(error).__name__}: {error}; the file is {path}")
            raise
        shutil.rmtree(base / "out", ignore_errors=True)
        if (after := _tree(base)) != before:
            print(f"{kind} seed {seed} step {step}: wrote outside: {sorted(after ^ before)[:3]}; the file is {path}")
            return 1
    shutil.rmtree(base.parent)
    print(f"{kind}: seed {seed}, {step} damaged files, {refused} refused, the rest read; nothing else happened")
    return 0


def _tree(base: Path) -> set[str]:
    return {os.path.join(where, name) for where, _, files in os.walk(base.parent) for name in files} | {
        str(path) for path in (Path("/tmp/evil"), Path("/tmp/evil.tar"), Path("/tmp/evil.jpg")) if path.exists()
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=["manifest", "columns", "layer", "weights", "coco", "voc", "csv"])
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=0)
    words = parser.parse_args()
    logging.disable(logging.WARNING)
    sys.exit(fuzz(words.kind, words.minutes, words.seed))
