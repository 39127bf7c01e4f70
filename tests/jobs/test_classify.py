"""fgvc classify through the command line's main: results, files, W&B, bad input."""

import csv
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from filelock import FileLock
from made_trees import make_cub, make_dogs
from safetensors.torch import load_file, save_file
from shown import shown
from small_runs import small_run

from fgvc.models.export import read_about
from jobs.cli import main
from shards.building.build import LOCK, WORK
from shards.manifest import Manifest

Start = Callable[..., subprocess.Popen]


@pytest.fixture(scope="module")
def done(guide: Manifest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run with W&B offline and a held-out fold."""
    runs = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("WANDB_MODE", raising=False)
        words = small_run(guide, runs, "done", "track.wandb=offline", "data.folds=4", "data.fold=1", "train.profile=2")
        assert main(words) == 0
    return runs / "classify/done"


def test_files_of_a_run(done: Path, guide: Manifest) -> None:
    result = json.loads((done / "result.json").read_text())
    assert result["test"]["count"] == 28
    assert result["val"]["count"] == 20
    assert result["steps"] == 3 * (60 // 8)
    rows = [json.loads(line) for line in (done / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == list(range(1, 22))
    assert [row["step"] for row in rows if "val_top1" in row] == [7, 14, 21]
    assert result["val"]["top1"] == rows[-1]["val_top1"]
    assert {"loss", "top1", "lr", "images_per_second", "data_wait", "mfu", "memory_mb"} <= rows[5].keys()
    with np.load(done / "predictions_test.npz") as file:
        assert (file["logits"].argmax(1) == file["labels"]).mean() == pytest.approx(result["test"]["top1"])
        assert file["entries"].tolist() == guide.split("test")
    assert "traceEvents" in json.loads((done / "profile.json").read_text())
    pictures = {"training.png", "confused_pairs.png", "class_accuracy.png", "confusion_matrix.png"}
    assert {path.name for path in done.glob("*.png")} == pictures


def test_the_report_shows_it(done: Path) -> None:
    tables = shown(done)
    assert tables["Accuracy and calibration"] == [
        "run", "split", "images", "top-1", "top-5", "class mean", "NLL", "ECE", "parameters", "GFLOPs",
    ]  # fmt: skip
    assert tables["Accuracy by class"] == ["class", "top-1, test", "top-1, val"]
    assert tables["Which class is taken for which"] == ["is", "taken for", "images, test", "images, val"]
    assert {"time", "starts", "train img/s", "eval img/s"} < set(tables["Time and machines"])


def test_answers_and_confusions_as_csv(done: Path, guide: Manifest) -> None:
    with np.load(done / "predictions_test.npz") as file:
        logits, labels, entries = file["logits"], file["labels"], file["entries"]
    with (done / "predictions_test.csv").open() as stream:
        lines = list(csv.DictReader(stream))
    assert [line["key"] for line in lines] == [guide.entries[entry].key for entry in entries]
    assert [line["predicted"] for line in lines] == [guide.classes[place] for place in logits.argmax(1)]
    assert [line["correct"] == "1" for line in lines] == (logits.argmax(1) == labels).tolist()
    chances = torch.from_numpy(logits).softmax(1).amax(1).tolist()
    assert [float(line["confidence"]) for line in lines] == pytest.approx(chances, abs=1e-5)
    assert all(line["top5"].split(" | ")[0] == line["predicted"] for line in lines)
    assert {line["origin"] for line in lines} == {"real"}
    with (done / "confusion_test.csv").open() as stream:
        header, *rows = csv.reader(stream)
    counts = np.array([[int(count) for count in row[1:]] for row in rows])
    assert header[1:] == [row[0] for row in rows] == list(guide.classes)
    assert counts.sum(1).tolist() == np.bincount(labels).tolist()
    assert counts.trace() == (logits.argmax(1) == labels).sum()


def test_wandb_file_reads_back_what_was_logged(done: Path) -> None:
    file = next((done / "wandb").glob("offline-run-*/*.wandb"))
    wandb = Path(sys.executable).with_name("wandb")
    shown = subprocess.run(
        [wandb, "leet", "inspect", "--json", file], capture_output=True, text=True, check=True
    ).stdout
    last = json.loads((done / "metrics.jsonl").read_text().splitlines()[-1])
    assert (done / "wandb_id").read_text() in shown
    assert str(last["loss"]) in shown
    assert str(last["val_top1"]) in shown


def test_two_deterministic_runs_write_the_same_weights_file(guide: Manifest, tmp_path: Path) -> None:
    for name in ("one", "other"):
        assert main(small_run(guide, tmp_path, name, "train.deterministic=true", "train.max_steps=2")) == 0
    one, other = (tmp_path / f"classify/{name}/model.safetensors" for name in ("one", "other"))
    assert one.read_bytes() == other.read_bytes()
    assert read_about(one)["trained_on"][0]["shards"] == guide.fingerprint


def test_frozen_batch_norm_stays_frozen_after_an_evaluation(guide: Manifest, tmp_path: Path) -> None:
    network = timm.create_model("test_resnet", num_classes=4)
    network.train()(torch.randn(16, 3, 32, 32))  # statistics unlike the initial ones
    save_file(network.state_dict(), tmp_path / "start.safetensors")
    words = [f"model.weights={tmp_path / 'start.safetensors'}", "train.freeze_bn=statistics", "train.ema=0"]
    assert main(small_run(guide, tmp_path, "frozen", *words, "data.folds=2", "train.epochs=2")) == 0
    trained = load_file(tmp_path / "classify/frozen/model.safetensors")
    statistics = [key for key in trained if "running" in key]
    assert statistics
    assert all(torch.equal(trained[key], network.state_dict()[key]) for key in statistics)
    assert not torch.equal(trained["fc.weight"], network.state_dict()["fc.weight"])


def test_a_run_waits_for_shards_that_another_builds(guide: Manifest, fgvc: Start, tmp_path: Path) -> None:
    shards = tmp_path / "shards"
    (shards / WORK).mkdir(parents=True)
    size = "{species: 4, train_per_class: 10, test_per_class: 4, size: 64}"
    words = small_run(guide, tmp_path, "waits", "data.source=field_guide", f"data.build={size}", "train.max_steps=1")
    with FileLock(shards / LOCK):
        process = fgvc(*words, f"data.shards={shards}")
        assert "another run is building these shards; waiting for it" in process.stderr.readline()
        assert process.poll() is None
    assert process.wait(240) == 0
    assert json.loads((tmp_path / "classify/waits/result.json").read_text())["train_count"] == 40


def test_probe_and_finetuning_from_it(guide: Manifest, tmp_path: Path) -> None:
    assert main(small_run(guide, tmp_path, "probe", "train.method=probe", "image.size=64")) == 0
    probe = json.loads((tmp_path / "classify/probe/result.json").read_text())
    assert probe["steps"] == 0
    assert 0.02 < probe["test"]["temperature"] < 50
    assert probe["test"]["nll_calibrated"] < probe["test"]["nll"]
    weights = f"weights={tmp_path / 'classify/probe/model.safetensors'}"
    words = [
        "evaluate",
        weights,
        f"data.shards={guide.folder}",
        f"runs_dir={tmp_path}",
        "split=train",
        "name=train",
        "seen=true",
    ]
    assert main(words) == 0
    fitted = json.loads((tmp_path / "evaluate/train/result.json").read_text())
    assert fitted["train"]["count"] == 80
    assert fitted["train"]["top1"] > 0.5  # chance is 0.25; the features are a random network's
    tuned = ["train.head_start=probe", "image.size=64", "train.max_steps=1", "optim.lr=1e-9", "train.mixup=0"]
    assert main(small_run(guide, tmp_path, "tuned", *tuned, "train.freeze_bn=all", "train.ema=0")) == 0
    tuned_result = json.loads((tmp_path / "classify/tuned/result.json").read_text())
    assert tuned_result["test"]["top1"] == probe["test"]["top1"]  # a step of nothing leaves the probe's answers


@pytest.mark.parametrize("kind", ["cub200", "stanford_dogs"])
def test_official_layouts_go_through_build_show_classify(kind: str, tmp_path: Path) -> None:
    (make_cub if kind == "cub200" else make_dogs)(tmp_path / "raw")
    shards = tmp_path / "shards"
    assert main(["shards", "build", kind, str(tmp_path / "raw"), str(shards)]) == 0
    assert main(["shards", "show", str(shards)]) == 0
    assert (shards / "contact_sheet.png").stat().st_size > 1000
    words = [
        "classify", "name=made", f"runs_dir={tmp_path}", f"data.shards={shards}", "data.crop=box", "train.batch=4",
        "model.name=test_resnet", "model.weights=none", "image.size=32", "train.epochs=1", "track.wandb=disabled",
    ]  # fmt: skip
    assert main(words) == 0
    assert 0 <= json.loads((tmp_path / "classify/made/result.json").read_text())["test"]["top1"] <= 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["optim.lrr=1"], "unknown key 'optim.lrr'; did you mean 'optim.lr'?"),
        (["lr=1"], "unknown key 'lr'; did you mean 'optim.lr'?"),
        (["optim.lr=fast"], "optim.lr='fast': Input should be a valid number"),
        (["optim.lr=-1"], "optim.lr=-1: Input should be greater than 0"),
        (["optim.method=sdg"], "did you mean 'sgd'?"),
        (["optim=3"], "'optim' is a group of settings"),
        (["train.batch=1000"], "train.batch=1000 is more than the 80 training images"),
        (["train.batch=9", "train.accumulation=2"], "choose a multiple of 2"),
        (["model.weights=nothing.safetensors"], "model.weights=nothing.safetensors: No such file"),
        (["model.weights=$NOWHERE/x.pth"], "that environment variable is not set"),
        (["data.shards=/nowhere"], "/nowhere: no manifest.json there; build shards first: fgvc shards build SOURCE"),
        (["data.folds=4", "data.fold=4"], "folds are counted from 0"),
        (["name=a/b"], "a run's name is one folder name"),
        (["runs_dir=/proc/none"], "cannot be written"),
        (["--on", "nowhere"], "--on nowhere"),
        (["nothing.yaml"], "nothing.yaml: no such config file"),
    ],
)
def test_mistakes_are_one_line_and_exit_2(
    guide: Manifest, tmp_path: Path, capsys: pytest.CaptureFixture, words: list[str], message: str
) -> None:
    assert main([*small_run(guide, tmp_path, "bad", *words)]) == 2
    errors = capsys.readouterr().err.strip().splitlines()
    assert message in errors[-1]
    assert errors[-1].startswith("fgvc classify: ")
    assert not any("Traceback" in line for line in errors)


def test_debug_is_short_and_dry_run_does_nothing(
    guide: Manifest, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    config = tmp_path / "mine.yaml"
    config.write_text(
        f"data: {{shards: {guide.folder}}}\nmodel: {{name: test_resnet, weights: none}}\n"
        f"image: {{size: 32}}\nruns_dir: {tmp_path / 'runs'}\ntrain: {{batch: 8, epochs: 50}}\n"
    )
    assert main(["classify", str(config), "--dry-run", "seed=5"]) == 0
    assert "seed: 5" in capsys.readouterr().out
    assert not (tmp_path / "runs").exists()
    assert main(["classify", str(config), "--on", "debug"]) == 0
    result = json.loads((tmp_path / "runs/classify/mine-debug/result.json").read_text())
    assert result["steps"] == 20
    assert result["train_count"] == 64


def test_help_is_quick_and_names_every_field() -> None:
    def seconds() -> float:
        began = time.perf_counter()
        words = [sys.executable, "-X", "importtime", "-m", "jobs.cli", "classify", "--help"]
        shown = subprocess.run(words, capture_output=True, text=True, check=True)
        assert "optim.head_multiplier: float > 0 = 10.0" in shown.stdout
        assert " torch\n" not in shown.stderr  # importtime's list
        return time.perf_counter() - began

    assert min(seconds() for _ in range(3)) < 2  # half a second on a machine at rest


def test_a_reader_that_leaves_is_no_error() -> None:
    reading, writing = os.pipe()
    os.close(reading)  # as `fgvc ... | head` does, once it has its lines
    words = [sys.executable, "-m", "jobs.cli", "classify", "--help"]
    left = subprocess.run(words, stdout=writing, stderr=subprocess.PIPE, text=True)
    os.close(writing)
    assert (left.returncode, left.stderr) == (141, "")


def test_unknown_command_names_the_nearest(capsys: pytest.CaptureFixture) -> None:
    assert main(["clasify"]) == 2
    assert "did you mean classify?" in capsys.readouterr().err
