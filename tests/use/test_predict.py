"""fgvc predict and fgvc.load: the logits of evaluation, odd and broken pictures, boxes, what is refused."""

import csv
import io
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from fgvc import load
from fgvc.classification.metrics import Predictions
from fgvc.models.export import export, read_about
from fgvc.use.boxes import boxes_of
from fgvc.use.predictor import Picture, Unread
from jobs.cli import main
from shards.boxes_layer import write_layer
from shards.building.encode import ImageError
from shards.cells import unquoted
from shards.manifest import Manifest
from shards.reading.views import Policy


def answers(capsys: pytest.CaptureFixture, *words: str, code: int = 0) -> list[dict]:
    capsys.readouterr()
    assert main(["predict", *words]) == code
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


@pytest.mark.parametrize("name", ["whole", "crops"])
def test_the_logits_are_those_of_evaluation(
    name: str, runs: Path, photos: Path, guide: Manifest, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    weights = runs / f"classify/{name}/model.safetensors"
    words = ["evaluate", f"weights={weights}", f"data.shards={guide.folder}", f"runs_dir={tmp_path}", "name=it"]
    assert main(words) == 0
    expected = Predictions.load(tmp_path / "evaluate/it/predictions.npz")
    boxes = {entry.key: [(*entry.boxes[0], 1.0)] for entry in guide.entries}
    write_layer(tmp_path / "boxes.jsonl", guide, boxes, {"job": "test"})
    more = [f"boxes={tmp_path / 'boxes.jsonl'}"] if name == "crops" else []
    found = answers(capsys, str(photos), "--run", name, f"runs_dir={runs}", "logits=true", "batch=5", *more)
    by_key = {Path(line["picture"]).stem: line for line in found}
    assert len(by_key) == len(found) == len(expected.entries)
    lines = [by_key[guide.entries.key(index)] for index in expected.entries]
    assert np.abs(np.array([line["logits"] for line in lines]) - expected.logits).max() < 1e-5
    for line, probabilities in zip(lines, expected.probabilities, strict=True):
        assert line["top"][0]["class"] == guide.classes[int(probabilities.argmax())]
        assert line["top"][0]["probability"] == pytest.approx(probabilities.max(), abs=1e-5)
        assert (line["box"] is not None) == (name == "crops")


def test_probabilities_are_calibrated_where_the_weights_are(runs: Path, photos: Path, tmp_path: Path) -> None:
    weights, picture = runs / "classify/whole/model.safetensors", next(photos.iterdir())
    export(tmp_path / "warm.safetensors", load_file(weights), read_about(weights) | {"temperature": 2.5})
    bare, warm = (load(path).predict(picture) for path in (weights, tmp_path / "warm.safetensors"))
    assert np.array_equal(bare.logits, warm.logits)
    powers = bare.probabilities ** (1 / 2.5)
    assert warm.probabilities == pytest.approx(powers / powers.sum())


def test_odd_pictures_are_read_and_broken_ones_named(
    runs: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    image = Image.open(next(photos.iterdir())).convert("RGB")
    data = next(photos.iterdir()).read_bytes()
    image.convert("CMYK").save(tmp_path / "cmyk.jpg")
    grey = np.asarray(image.convert("L")).astype(np.uint16) * 257
    Image.fromarray(grey).save(tmp_path / "deep.png")
    image.quantize(16).save(tmp_path / "palette.png", transparency=0)
    image.convert("RGBA").save(tmp_path / "alpha=1.png")
    turned = Image.Exif()
    turned[0x0112] = 6
    image.save(tmp_path / "turned.jpg", exif=turned)
    (tmp_path / "cut.jpg").write_bytes(data[: len(data) // 2])
    (tmp_path / "page.jpg").write_text("<html>")
    (tmp_path / "empty.png").touch()
    words = [str(tmp_path), "--run", "whole", f"runs_dir={runs}"]
    found = {Path(line["picture"]).name: line for line in answers(capsys, *words, code=1)}
    broken = {name: line["error"] for name, line in found.items() if "error" in line}
    assert broken == {"cut.jpg": "truncated", "empty.png": "empty file", "page.jpg": "not an image"}
    read = {"alpha=1.png", "cmyk.jpg", "deep.png", "palette.png", "turned.jpg"}
    assert found.keys() - broken.keys() == read
    assert all(len(found[name]["top"]) == 4 for name in read)
    assert (found["turned.jpg"]["width"], found["turned.jpg"]["height"]) == image.size[::-1]
    assert len(answers(capsys, str(tmp_path / "alpha=1.png"), *words[1:])) == 1
    assert main(["predict", *words, "format=csv", f"out={tmp_path / 'out.csv'}", "top=2"]) == 1
    assert "3 of 8 pictures could not be read" in capsys.readouterr().err
    rows = list(csv.DictReader((tmp_path / "out.csv").open()))
    assert {Path(row["picture"]).name: row["error"] for row in rows if row["error"]} == broken
    (row,) = (row for row in rows if row["picture"].endswith("turned.jpg"))
    assert row["class_1"] == found["turned.jpg"]["top"][0]["class"]


def test_a_thin_picture_takes_no_memory(runs: Path) -> None:
    """Its short side would be enlarged to the input's."""
    Image.new("RGB", (65000, 1)).save(stream := io.BytesIO(), "PNG")
    predictor = load("crops", runs_dir=runs)
    said = Unread("picture", "65000 x 1 pixels: one side is more than 50 times the other")
    assert predictor.read(stream.getvalue()) == said
    assert isinstance(predictor.read(wide := np.zeros((200, 600, 3), np.uint8), (0.0, 0.0, 600.0, 0.5)), Picture)
    predictor.policy = Policy("box", 0.0, "truth", 0.0)  # which keeps the box alone
    assert predictor.read(wide, (0.0, 0.0, 600.0, 0.5)) == Unread(
        "picture", "600 x 1 pixels: one side is more than 50 times the other"
    )


def test_pictures_show_what_an_answer_rests_on(
    runs: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    picture = sorted(photos.iterdir())[0]
    words = [str(picture), "--run", str(runs / "classify/crops"), f"pictures={tmp_path / 'seen'}"]
    (line,) = answers(capsys, *words, "box=[8, 8, 500, 40]")
    with Image.open(picture) as image:
        assert line["box"] == [8, 8, image.width, 40]  # clipped
    boxed = Image.open(tmp_path / f"seen/{picture.stem}-seen.jpg").convert("RGB")
    (line,) = answers(capsys, *words)
    assert line["box"] is None
    whole = Image.open(tmp_path / f"seen/{picture.stem}-seen.jpg").convert("RGB")
    assert np.abs(np.asarray(boxed, int) - np.asarray(whole, int)).max() > 50  # another cut, another map, a frame


def test_pictures_that_are_read_are_never_written_over(
    runs: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    data = {name: file.read_bytes() for name, file in zip(("a.jpg", "b.jpg"), sorted(photos.iterdir()), strict=False)}
    for name in data:
        (tmp_path / name).write_bytes(data[name])
    words = [f"{tmp_path}/", "--run", "whole", f"runs_dir={runs}"]
    answers(capsys, *words, f"pictures={tmp_path}/")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a-seen.jpg", "a.jpg", "b-seen.jpg", "b.jpg"]
    for word in (f"pictures={tmp_path}/", f"out={tmp_path / 'b.jpg'}"):  # now a-seen.jpg is a picture to read, too
        assert main(["predict", *words, word]) == 2
        assert "is to be read; write somewhere else" in capsys.readouterr().err
    assert {name: (tmp_path / name).read_bytes() for name in data} == data


def test_boxes_are_in_pixels_of_the_upright_picture(
    runs: Path, photos: Path, guide: Manifest, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """Twice as large and turned by EXIF, shrunk again: the same as the picture itself. A layer's are the shards'."""
    picture, turned = sorted(photos.iterdir())[0], Image.Exif()
    image = Image.open(picture).convert("RGB")
    width, height = image.size
    turned[0x0112] = 6  # to be turned to the right
    large = image.resize((2 * width, 2 * height)).transpose(Image.Transpose.ROTATE_90)
    large.save(tmp_path / picture.name, quality=95, exif=turned)
    words = [str(tmp_path / picture.name), "--run", "crops", f"runs_dir={runs}", f"shrink={min(width, height)}"]
    words += ["logits=true"]
    expected = load("crops", runs_dir=runs).predict(picture, (8.0, 12.0, 40.0, 45.0))
    write_layer(tmp_path / "boxes.jsonl", guide, {picture.stem: [(8, 12, 40, 45, 1)]}, {"job": "test"})
    for word in ("box=[16, 24, 80, 90]", f"boxes={tmp_path / 'boxes.jsonl'}"):
        (line,) = answers(capsys, *words, word)
        assert (line["width"], line["height"], line["box"]) == (2 * width, 2 * height, [16, 24, 80, 90])
        assert np.abs(np.array(line["logits"]) - expected.logits).max() < 0.1
    assert np.abs(load("crops", runs_dir=runs).predict(picture, (16, 24, 80, 90)).logits - expected.logits).max() > 0.2


def test_boxes_of_a_layer_go_to_the_pictures_they_are_of(
    runs: Path, photos: Path, guide: Manifest, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    root, picture = tmp_path / "raw", sorted(photos.iterdir())[0]
    for name in ("a/x.jpg", "b/x.jpg", "b/y.jpg", "b/z.jpg"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(picture.read_bytes())

    def layer(**boxes: list[float]) -> str:
        rows = [{"key": key, "boxes": [[*box, 1.0]]} for key, box in boxes.items()]
        header = {"format": "fgvc-boxes 1", "shards": "x", "samples": len(rows), "made_by": {}}
        (tmp_path / "boxes.jsonl").write_text("\n".join(map(json.dumps, [header, *rows])))
        return f"boxes={tmp_path / 'boxes.jsonl'}"

    words = [str(root), "--run", "crops", f"runs_dir={runs}"]
    given = layer(a__x=[1, 2, 30, 40], b__x=[5, 6, 30, 40], y=[900, 900, 950, 950])
    capsys.readouterr()
    assert main(["predict", *words, given]) == 1
    said = capsys.readouterr()
    lines = [json.loads(line) for line in said.out.splitlines()]
    assert [line.get("box") for line in lines] == [[1, 2, 30, 40], [5, 6, 30, 40], None, None]
    assert lines[2]["error"].startswith("box (900, 900, 950, 950) holds no pixel of the picture")
    assert "seen whole: 1" in said.err
    assert main(["predict", *words, layer(x=[1, 2, 30, 40])]) == 2
    assert "a/x.jpg and" in (error := capsys.readouterr().err)
    assert "would both take the box of 'x'" in error
    assert len(answers(capsys, f"{root}/a", str(root / "a/x.jpg"), *words[1:], layer(x=[1, 2, 30, 40]))) == 2


def test_the_box_of_a_layer_is_the_one_that_evaluation_crops_by(tmp_path: Path) -> None:
    """None below the classifier's min_score; of equal scores the largest."""
    rows = {
        "sure": [[0, 0, 9, 9, 0.9], [0, 0, 50, 50, 0.9], [0, 0, 99, 99, 0.3]], "unsure": [[0, 0, 9, 9, 0.2]],
        "none": [],
    }  # fmt: skip
    header = {"format": "fgvc-boxes 1", "shards": "x", "samples": len(rows), "made_by": {}}
    lines = [header, *({"key": key, "boxes": boxes} for key, boxes in rows.items())]
    (tmp_path / "boxes.jsonl").write_text("\n".join(map(json.dumps, lines)))
    files = [tmp_path / f"{name}.jpg" for name in (*rows, "unlisted")]
    assert boxes_of(tmp_path / "boxes.jsonl", files, 0.25) == {files[0]: (0, 0, 50, 50)}
    assert boxes_of(tmp_path / "boxes.jsonl", files, 0.2).keys() == {files[0], files[1]}


@pytest.mark.slow  # mmdet takes seconds to load
def test_a_detector_finds_the_boxes_that_crop_finds(
    runs: Path, photos: Path, guide: Manifest, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    from fgvc.detection.config import DetectorConfig
    from fgvc.detection.detector import find_boxes, save_detector
    from fgvc.detection.models import create_detector

    torch.manual_seed(0)
    config = DetectorConfig(
        architecture="rtmdet", backbone="test_efficientnet", weights="none", channels=16, fc_channels=32
    )
    detector = tmp_path / "detect/tiny/model.safetensors"
    detector.parent.mkdir(parents=True)
    save_detector(detector, create_detector(config, 1), config, ["object"], 64)
    index = guide.split("test")[0]
    expected = find_boxes(detector, guide, [index], device=torch.device("cpu"), score=0.0)[guide.entries.key(index)]
    picture = str(photos / f"{guide.entries.key(index)}.jpg")
    words = [picture, "--run", str(runs / "classify/crops"), f"runs_dir={tmp_path}", "detector=tiny"]
    (line,) = answers(capsys, *words)
    assert line["box"] == pytest.approx(expected[0][:4], abs=0.05)
    found = load(runs / "classify/crops", detector=detector).read(picture).box
    assert found == tuple(round(corner, 2) for corner in found)  # as a layer has it
    assert "is less often right" not in capsys.readouterr().err


def test_class_names_are_text_everywhere(
    runs: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    weights, hostile = runs / "classify/whole/model.safetensors", ["=1+1", "</script><script>", "\x1b[31mred", "'@SUM"]
    export(tmp_path / "bad.safetensors", load_file(weights), read_about(weights) | {"classes": hostile})
    words = [str(next(photos.iterdir())), "--run", str(tmp_path / "bad.safetensors")]
    capsys.readouterr()
    assert main(["predict", *words, "format=csv", f"pictures={tmp_path / 'seen'}"]) == 0
    text = capsys.readouterr().out
    (row,) = csv.DictReader(io.StringIO(text))
    cells = [row[f"class_{rank}"] for rank in (1, 2, 3, 4)]
    assert "\x1b" not in text
    assert not any(cell.startswith(("=", "@", "+", "-")) for cell in cells)
    assert {unquoted(cell) for cell in cells} == {"=1+1", "</script><script>", "\\x1b[31mred", "'@SUM"}


def test_mistakes_are_one_line(runs: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    picture, run = str(next(photos.iterdir())), ["--run", "whole", f"runs_dir={runs}"]
    (tmp_path / "empty").mkdir()
    (tmp_path / "other.jsonl").write_text('{"format": "fgvc-boxes 1", "shards": "x", "samples": 0, "made_by": {}}\n')
    for words, message in (
        ([picture], "which pictures, which classifier?"),
        ([str(tmp_path / "none.jpg"), *run], "none.jpg: no such file or folder"),
        ([str(tmp_path / "empty"), *run], "no pictures there"),
        ([picture, "--run", "whale", f"runs_dir={runs}"], "no such run, folder or weights file; did you mean 'whole'?"),
        ([picture, "--run", picture], "not readable as safetensors"),
        ([picture, *run, "tops=3"], "unknown key 'tops'; did you mean 'top'?"),
        ([picture, *run, "top=0"], "greater than 0"),
        ([picture, *run, "device=gpu"], "Input should be '', 'cpu' or 'cuda'"),
        ([picture, *run, "method=layrcam"], "no such method; did you mean 'layercam'?"),
        ([picture, *run, "box=[1, 2, 3]"], "box: four numbers for one picture"),
        ([str(photos), *run, "box=[1, 2, 3, 4]"], "holds 28; give boxes=FILE"),
        ([picture, *run, "detector=whole"], "whole: no such run"),
        ([picture, *run, f"boxes={tmp_path / 'other.jsonl'}"], "lists none of these pictures"),
        ([picture, "--run", "crops", f"runs_dir={runs}", "box=[9, 9, 9, 9]"], "holds no pixel of the picture"),
    ):  # fmt: skip
        capsys.readouterr()
        assert main(["predict", *words]) == 2
        errors = capsys.readouterr().err.strip().splitlines()
        assert message in errors[-1]
        assert errors[-1].startswith("fgvc predict: ")


def test_the_api_takes_what_notebooks_have(runs: Path, photos: Path, guide: Manifest) -> None:
    predictor = load("whole", runs_dir=runs)
    assert predictor.classes == guide.classes
    file = next(photos.iterdir())
    expected = predictor.predict(file)
    with Image.open(file) as image:
        array = np.asarray(image.convert("RGB"))
        sources = [str(file), file.read_bytes(), image, array, predictor.read(file).pixels]
        found = [predictor.predict(source) for source in sources]
    for prediction in found:
        assert prediction.top[0].name == expected.top[0].name
        assert prediction.logits == pytest.approx(expected.logits, abs=0.05)  # Pillow may decode a level apart
    cut = Image.open(io.BytesIO(file.read_bytes()[:2000]))
    for bad in (b"\xff\xd8 nothing", array.astype(float), array[..., :2], cut):
        with pytest.raises(ImageError):
            predictor.predict(bad)


def test_importing_the_package_stays_light() -> None:
    code = "import sys, fgvc; fgvc.load; print([name for name in ('torch', 'numpy', 'PIL') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
