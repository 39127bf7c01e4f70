"""fgvc explain through the command line's main: what it leaves, what it refuses, kills, ranks, crops, photos."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cluster_commands import command, wait_until
from PIL import Image
from safetensors.torch import load_file
from shown import shown
from slurm_helpers import skip_without_cluster
from small_runs import small_run

from fgvc.models.export import export, read_about
from jobs.cli import main
from jobs.registry import command_module
from shards.boxes_layer import read_layer
from shards.manifest import Manifest
from shards.reading.reader import Reader
from slurm.testbed.cluster import down, missing_packages, up

SMALL = [
    "images=12", "slow_images=2", "sanity_images=2", "birds=4", "contrasts=2", "data.workers=0", "track.wandb=disabled",
]  # fmt: skip


@pytest.fixture(scope="module")
def weights(guide: Manifest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A classifier of the session's birds."""
    runs = tmp_path_factory.mktemp("runs")
    assert main(small_run(guide, runs, "done", "image.size=64", "train.epochs=5", "train.mixup=0")) == 0
    return runs / "classify/done/model.safetensors"


def explain(weights: Path, guide: Manifest, runs: Path, *more: str) -> int:
    return main(["explain", f"weights={weights}", f"data.shards={guide.folder}", f"runs_dir={runs}", *SMALL, *more])


def result_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "result.json").read_text())


def without_times(result: dict[str, Any]) -> dict[str, Any]:
    """A split's figures but for the seconds they took."""
    methods = {
        name: {key: value for key, value in row.items() if key != "seconds"}
        for name, row in result["test"]["methods"].items()
    }
    return result["test"] | {"methods": methods, "notes": []}


@pytest.fixture(scope="module")
def explained(weights: Path, guide: Manifest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished explanation."""
    runs = tmp_path_factory.mktemp("explained")
    methods = "methods=[cam, layercam, occlusion]"
    assert explain(weights, guide, runs, "name=one", methods, "boxes_by=cam") == 0
    return runs / "explain/one"


def test_what_a_run_leaves(explained: Path, guide: Manifest) -> None:
    result = result_of(explained)
    test = result["test"]
    assert list(test["methods"]) == ["cam", "layercam", "occlusion", "random", "centre", "oracle"]
    assert (test["images"], test["methods"]["cam"]["images"], test["methods"]["occlusion"]["images"]) == (12, 12, 2)
    assert result["seen"] is False
    for name, row in test["methods"].items():
        low, high = row["pointing_interval"]
        assert 0 <= low <= row["pointing"] <= high <= 1, name
        assert {"energy", "max_box_acc", "max_box_acc_v2", "insertion", "deletion", "road", "seconds"} <= set(row), name
        assert np.isfinite([value for value in row.values() if isinstance(value, float)]).all()
        assert ("sanity" in row) == (name not in ("occlusion", "oracle"))
    assert [test["methods"][name]["sanity"] for name in ("random", "centre")] == pytest.approx([1, 1])
    assert test["methods"]["cam"]["sanity"] < 1
    assert test["pointing"] == test["methods"]["cam"]["pointing"]
    assert command_module("explain").HEADLINE.figures(result) == {"test": test["pointing"]}
    lines = [json.loads(line) for line in (explained / "explanations.jsonl").read_text().splitlines()]
    entries = {entry.key: entry for entry in guide.entries}
    assert len(lines) == 12
    assert np.mean([line["methods"]["cam"]["pointing"] for line in lines]) == pytest.approx(test["pointing"], abs=1e-4)
    assert np.mean([line["label"] == line["predicted"] for line in lines]) == pytest.approx(test["top1"])
    for line in lines:
        entry = entries[line["key"]]
        x0, y0, x1, y1 = line["methods"]["cam"]["box"]
        assert 0 <= x0 < x1 <= entry.width
        assert 0 <= y0 < y1 <= entry.height
    layer = read_layer(explained / "boxes.jsonl", guide)
    assert layer.made_by["method"] == "cam"
    assert set(layer.boxes) == set(entries)  # of all images, to train by
    near = [
        np.abs(np.subtract(layer.boxes[line["key"]][0][:4], line["methods"]["cam"]["box"])).max() < 2 for line in lines
    ]
    assert np.mean(near) > 0.9  # batches of other images round otherwise
    for name in ("classes.png", "overlays", "contrasts"):
        assert (explained / name).exists(), name
    assert len(list((explained / "contrasts").glob("*.png"))) == 2
    assert not (explained / "chunks").exists()
    report = command_module("explain").report(result, explained)
    assert "layercam" in report
    assert "off the object" not in report  # no class has a shortcut
    assert test["sheets_by"] == "layercam"
    assert set(test["birds"]["asked"]) == {"completeness", "correctness", "contrastivity"}
    assert "funnybirds rests on birds: completeness " in report
    assert test["methods"]["centre"]["sanity_floor"] == pytest.approx(1)  # the same map for every image
    assert {"pointing", "energy", "max_box_acc", "max_box_acc_v2"} == set(test["chance"])
    assert "(the whole image as the box)" in report


class Killed(BaseException):
    """As a kill: nothing catches it."""


def killed(*_: object) -> None:
    raise Killed


def test_the_report_shows_it(explained: Path) -> None:
    tables = shown(explained)
    assert {"pointing", "energy", "max box acc", "insertion", "deletion", "road", "sanity"} < set(
        tables["one: methods on 12 images, test"]
    )
    assert tables["one: methods compared image by image"] == ["score: one - other", "difference", "verdict", "images"]
    assert tables["one: share of the maps on the object above chance, by class"] == [
        "predicted class",
        "map on the object",
    ]


def test_killed_and_resumed_it_is_the_same(
    explained: Path, weights: Path, guide: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed in its third kind of work; what was done is read, not done again."""
    from fgvc.explanation import examination

    with monkeypatch.context() as patch:
        patch.setattr(examination, "sanity", killed)
        with pytest.raises(Killed):
            explain(weights, guide, tmp_path, "name=one", "methods=[cam, layercam, occlusion]", "boxes_by=cam")
    folder = tmp_path / "explain/one"
    assert list((folder / "chunks/maps").glob("000000-*.npz"))
    assert not (folder / "result.json").exists()
    with monkeypatch.context() as patch:
        patch.setattr(examination.Examiner, "__call__", lambda *_: pytest.fail("done before"))
        assert explain(weights, guide, tmp_path, "name=one", "methods=[cam, layercam, occlusion]", "boxes_by=cam") == 0
    assert without_times(result_of(folder)) == without_times(result_of(explained))
    for name in ("explanations.jsonl", "boxes.jsonl"):
        ours, theirs = ((path / name).read_text().splitlines() for path in (folder, explained))
        assert ours == theirs


def test_maps_boxes_are_boxes_to_crop_by(weights: Path, guide: Manifest, tmp_path: Path) -> None:
    few = ["methods=[gradcam]", "boxes_by=gradcam", "slow_images=0", "sanity_images=0", "birds=0", "contrasts=0"]
    assert explain(weights, guide, tmp_path, "name=boxes", *few) == 0
    layer = tmp_path / "explain/boxes/boxes.jsonl"
    crop = ["data.crop=square", f"data.boxes={layer}", "evaluate_test=false", "train.max_steps=2", "data.folds=4"]
    assert main(small_run(guide, tmp_path, "crops", *crop)) == 0
    crops = json.loads((tmp_path / "classify/crops/result.json").read_text())["crops"]
    assert crops["train"]["without_box"] <= 60 * 0.1
    cropped = tmp_path / "classify/crops/model.safetensors"
    # A classifier of crops by a layer is explained on crops; the oracle is for whole images.
    fold = ["split=held_out", "data.folds=4", "data.fold=0", f"data.boxes={layer}"]
    assert explain(cropped, guide, tmp_path, "name=cropped", *few[:1], *few[2:], *fold) == 0
    assert set(result_of(tmp_path / "explain/cropped")["held_out"]["methods"]) == {"gradcam", "random", "centre"}


def test_photos_need_no_shards(weights: Path, guide: Manifest, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    reader = Reader(guide)
    for index in guide.split("test")[:3]:
        (folder / f"{guide.entries[index].key}.jpg").write_bytes(reader.read(index))
    Image.open(folder / f"{guide.entries[guide.split('test')[0]].key}.jpg").convert("RGBA").save(
        folder / "odd name!.png"
    )
    words = ["explain", f"weights={weights}", f"runs_dir={tmp_path}", *SMALL, "methods=[cam, layercam]"]
    assert main([*words, f"photos={folder}"]) == 0
    found = tmp_path / "explain/done-photos"
    lines = [json.loads(line) for line in (found / "explanations.jsonl").read_text().splitlines()]
    assert [line["label"] for line in lines] == [None] * 4
    assert lines[0]["predicted"] in guide.classes
    result = result_of(found)["photos"]
    assert "pointing" not in result
    assert {"insertion", "deletion", "road"} <= set(result["methods"]["cam"])
    assert main([*words, f"photos={folder / 'odd name!.png'}", "name=single"]) == 0
    (folder / "broken.jpg").write_bytes(b"\xff\xd8 not a photo")
    capsys.readouterr()
    for photos, message in (
        (folder, "broken.jpg: not a readable image"), (tmp_path / "none", "no such file or folder"),
        (explained_nothing(tmp_path), "no images there"),
    ):  # fmt: skip
        assert main([*words, f"photos={photos}", "name=bad"]) == 2
        assert message in capsys.readouterr().err


def explained_nothing(folder: Path) -> Path:
    (folder / "empty").mkdir()
    return folder / "empty"


def test_mistakes_are_one_line(weights: Path, guide: Manifest, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    about, state = read_about(weights), load_file(weights)
    export(tmp_path / "other.safetensors", state, about | {"classes": [*about["classes"][:-1], "stork"]})
    task = {key: value for key, value in about.items() if key != "classes"}
    export(tmp_path / "detector.safetensors", state, task)
    bad = dict(state)
    bad["fc.bias"] = bad["fc.bias"] * float("nan")
    export(tmp_path / "nan.safetensors", bad, about)
    photo = tmp_path / "bird.jpg"
    photo.write_bytes(Reader(guide).read(0))
    quick = ["slow_images=0", "sanity_images=0", "birds=0"]
    for words, message in (
        (["methods=[gradcm]"], "methods=gradcm: no such method; did you mean 'gradcam'?"),
        (["boxes_by=layrcam"], "boxes_by=layrcam: no such method; did you mean 'layercam'?"),
        (["methods=[rollout]"], "methods: ResNet has no attention of ViT's or Swin's kind"),
        (["boxes_by=oracle"], "boxes_by=oracle: it knows the answer"),
        (["sheet=occlusion"], "sheet=occlusion: a slow method, which slow_images=0 leaves out"),
        (["sheet=oracle", f"photos={photo}"], "sheet=oracle: only for whole images of the field guide"),
        (["pair=[Northern Finch]"], "two different classes are needed"),
        (["pair=[Northern Finch, Red-crested Fnch]"], "no such class; did you mean 'Red-crested Finch'?"),
        (["split=valid"], "no samples in split 'valid'"),
        (["split=train"], "the weights were trained on 80 of these 80 images"),
        ([f"weights={tmp_path / 'other.safetensors'}"], "class 4 is 'stork' there"),
        ([f"weights={tmp_path / 'detector.safetensors'}"], "says nothing of its model"),
        ([f"weights={tmp_path / 'nan.safetensors'}", "methods=[cam]"], "outputs are not finite, first for 'test_"),
        (["weights="], "weights is not set"),
        (["weights=nowhere"], "nowhere: no such run, folder or weights file"),
    ):
        assert explain(weights, guide, tmp_path, "name=bad", *quick, *words) == 2, words
        error = capsys.readouterr().err
        assert message in error, words
        assert "Traceback" not in error
    shutil.rmtree(tmp_path / "explain", ignore_errors=True)


def test_the_closest_calls_of_two_named_classes(weights: Path, guide: Manifest, tmp_path: Path) -> None:
    words = ["methods=[cam]", "slow_images=0", "sanity_images=0", "birds=0", "images=0", "contrasts=3"]
    pair = f"pair=['{guide.classes[0]}', '{guide.classes[1]}']"
    assert explain(weights, guide, tmp_path, "name=pair", pair, *words) == 0
    lines = [json.loads(line) for line in (tmp_path / "explain/pair/explanations.jsonl").read_text().splitlines()]
    either = {line["key"] for line in lines if line["predicted"] in guide.classes[:2]}
    drawn = {path.stem for path in (tmp_path / "explain/pair/contrasts").glob("*.png")}
    assert drawn
    assert drawn <= (either or {line["key"] for line in lines})


@pytest.mark.slow
@pytest.mark.skipif(bool(missing_packages(accounting=False)), reason="Slurm's Debian packages are missing")
def test_two_ranks_of_a_cluster_with_workers_equal_one(
    explained: Path, weights: Path, guide: Manifest, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    skip_without_cluster()
    testbed = up(tmp_path_factory.mktemp("slurm") / "slurm")  # its sockets need a short path
    try:
        command(
            testbed, tmp_path, "explain", f"weights={weights}", f"data.shards={guide.folder}", "runs_dir=runs",
            "name=slurm", "methods=[cam, layercam, occlusion]", "boxes_by=cam", *SMALL, "data.workers=1", "--on",
            "testbed", "tasks_per_node=2",
        )  # fmt: skip
        run = tmp_path / "runs/explain/slurm"
        wait_until((run / "result.json").is_file)
        assert without_times(result_of(run)) == without_times(result_of(explained))
        assert (run / "explanations.jsonl").read_text() == (explained / "explanations.jsonl").read_text()
    finally:
        down(testbed.folder)
