"""How much of what is planted does `fgvc audit` find? Real birds with 20 wrong labels, exact and near copies.

python benchmarks/audit.py plant CUB OUT [--seed 0]     a folder of pictures from CUB's training images, truth.json
fgvc shards build image_folder OUT/raw OUT/shards
fgvc audit OUT/shards model.weights=FILE size=160
python benchmarks/audit.py score OUT runs/audit/shards  precision and recall
"""

import argparse
import io
import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path

from PIL import Image, ImageOps

WRONG, EXACT, NEAR = 20, 15, 40


def _saved(quality: int = 90) -> Callable[[Image.Image], bytes]:
    def save(image: Image.Image) -> bytes:
        stream = io.BytesIO()
        image.save(stream, "JPEG", quality=quality)
        return stream.getvalue()

    return save


def _inner(image: Image.Image, share: float) -> Image.Image:
    x, y = round(image.width * share), round(image.height * share)
    return image.crop((x, y, image.width - x, image.height - y))


COPIES: dict[str, Callable[[Image.Image], bytes]] = {
    "saved again": _saved(60),
    "smaller": lambda image: _saved()(image.resize((image.width * 2 // 3, image.height * 2 // 3))),
    "mirrored": lambda image: _saved()(ImageOps.mirror(image)),
    "cut": lambda image: _saved()(_inner(image, 0.04)),
    "brighter": lambda image: _saved()(image.point(lambda value: min(255, round(value * 1.25)))),
}


def plant(cub: Path, out: Path, seed: int) -> None:
    """Copy the training images by class, move 20 into a wrong one, add copies: half of them as test images."""
    draw = random.Random(seed)
    splits = dict(line.split() for line in (cub / "train_test_split.txt").read_text().splitlines())
    files = [line.split() for line in (cub / "images.txt").read_text().splitlines()]
    train = [name for number, name in files if splits[number] == "1"]
    classes = sorted({name.partition("/")[0] for name in train})
    chosen = draw.sample(train, WRONG + EXACT + NEAR)
    wrong = {name: draw.choice([c for c in classes if c != name.partition("/")[0]]) for name in chosen[:WRONG]}
    for name in train:
        folder, _, file = name.partition("/")
        target = out / "raw/train" / wrong.get(name, folder) / file
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(cub / "images" / name, target)
    exact, near = {}, {}
    for number, name in enumerate(chosen[WRONG:]):
        folder, _, file = name.partition("/")
        target = out / "raw" / ("test", "train")[number % 2] / folder / f"copy_{file}"
        target.parent.mkdir(parents=True, exist_ok=True)
        data = (cub / "images" / name).read_bytes()
        if number < EXACT:
            exact[Path(file).stem] = target.stem
        else:
            kind = list(COPIES)[number % len(COPIES)]
            near[Path(file).stem] = [target.stem, kind]
            data = COPIES[kind](Image.open(io.BytesIO(data)).convert("RGB"))
        target.write_bytes(data)
    truth = {"wrong": sorted(Path(name).stem for name in wrong), "exact": exact, "near": near}
    (out / "truth.json").write_text(json.dumps(truth, indent=1))


def score(out: Path, run: Path) -> None:
    """Print precision and recall of every kind of finding."""
    truth, found = json.loads((out / "truth.json").read_text()), json.loads((run / "findings.json").read_text())
    wrong = [doubt["key"].rpartition("__")[2] for doubt in found["labels"]]
    _print("wrong labels", set(truth["wrong"]), wrong)
    _print("wrong labels, the surest 20", set(truth["wrong"]), wrong[:20])
    stem = lambda key: key.rpartition("__")[2]  # noqa: E731
    exact = [frozenset(map(stem, group)) for group in found["exact"]]
    _print("exact copies", {frozenset(pair) for pair in truth["exact"].items()}, exact)
    near = [frozenset((stem(a), stem(b))) for a, b, _ in found["near"]]
    _print("near copies", {frozenset((a, b)) for a, (b, _) in truth["near"].items()}, near)
    for kind in COPIES:
        of_kind = [frozenset((a, b)) for a, (b, how) in truth["near"].items() if how == kind]
        print(f"    {kind}: {sum(pair in near for pair in of_kind)} of {len(of_kind)}")


def _print(what: str, planted: set, found: list) -> None:
    right = sum(item in planted for item in found)
    recall = len(planted & set(found)) / len(planted)
    print(f"{what}: {len(found)} found, precision {right / max(len(found), 1):.2f}, recall {recall:.2f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("plant", "score"))
    parser.add_argument("source", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    words = parser.parse_args()
    plant(words.source, words.out, words.seed) if words.what == "plant" else score(words.source, words.out)
