"""fgvc classify and evaluate, through the command line's main: results, files, W&B, bad input."""

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
from small_runs import small_run

from fgvc.classification.calibration import fit_temperature
from fgvc.classification.metrics import Predictions
from fgvc.models.export import export, read_about
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


def test_evaluate_agrees_with_training(done: Path, guide: Manifest, tmp_path: Path) -> None:
    words = ["evaluate", f"weights={done / 'model.safetensors'}", f"data.shards={guide.folder}", f"runs_dir={tmp_path}"]
    assert main([*words, "name=again"]) == 0
    before = json.loads((done / "result.json").read_text())["test"]
    after = json.loads((tmp_path / "evaluate/again/result.json").read_text())["test"]
    for close in ("nll", "ece"):  # another memory layout sums in another order
        assert after.pop(close) == pytest.approx(before.pop(close), rel=1e-4)
    assert after == before


def evaluate(weights: Path, guide: Manifest, runs: Path, *more: str) -> int:
    return main(["evaluate", f"weights={weights}", f"data.shards={guide.folder}", f"runs_dir={runs}", *more])


def test_images_seen_in_training_are_refused_or_marked(
    done: Path, guide: Manifest, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    weights = done / "model.safetensors"
    fold = ["split=held_out", "data.folds=4"]
    assert evaluate(weights, guide, tmp_path, *fold, "data.fold=0") == 2
    assert "the weights were trained on 20 of these 20 images; measure others" in capsys.readouterr().err
    assert evaluate(weights, guide, tmp_path, "split=train") == 2
    assert "trained on 60 of these 80 images" in capsys.readouterr().err
    assert evaluate(weights, guide, tmp_path, "split=train", "seen=true") == 0
    assert "SEEN IN TRAINING: 60 of these 80 images" in capsys.readouterr().out
    # Without a name: of the weights' run and the split.
    result = json.loads((tmp_path / "evaluate/done-train/result.json").read_text())
    assert (result["seen"], result["seen_images"]) == (True, 60)
    assert evaluate(weights, guide, tmp_path, *fold, "data.fold=1") == 0
    result = json.loads((tmp_path / "evaluate/done-held_out-f1/result.json").read_text())
    assert (result["seen"], result["seen_images"]) == (False, 0)
    assert "SEEN" not in capsys.readouterr().out
    about = read_about(weights)
    del about["trained_on"]
    save_file(load_file(weights), tmp_path / "old.safetensors", {key: json.dumps(fact) for key, fact in about.items()})
    assert evaluate(tmp_path / "old.safetensors", guide, tmp_path, "split=train") == 0
    assert "is not recorded in the weights file" in capsys.readouterr().out
    assert json.loads((tmp_path / "evaluate/old-train/result.json").read_text())["seen"] is None


def test_shards_of_other_classes_are_refused_by_the_first_that_differs(
    done: Path, guide: Manifest, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    about = read_about(done / "model.safetensors")
    about["classes"][2] = "stork"
    export(tmp_path / "other.safetensors", load_file(done / "model.safetensors"), about)
    assert evaluate(tmp_path / "other.safetensors", guide, tmp_path) == 2
    found = capsys.readouterr().err
    assert f"trained for 4 classes, {guide.folder} has 4: class 3 is 'stork' there, '{guide.classes[2]}' here" in found
    for damage in ({"size": "large"}, {"mean": None}, {"model": {"name": 3}}, {"temperature": -1}):
        export(tmp_path / "other.safetensors", load_file(done / "model.safetensors"), about | damage)
        assert evaluate(tmp_path / "other.safetensors", guide, tmp_path) == 2
        assert "damaged metadata" in capsys.readouterr().err


def test_outputs_that_are_not_finite_name_an_image(
    done: Path, guide: Manifest, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    state = load_file(done / "model.safetensors")
    state["fc.bias"][1] = float("nan")
    export(tmp_path / "bad.safetensors", state, read_about(done / "model.safetensors"))
    assert evaluate(tmp_path / "bad.safetensors", guide, tmp_path) == 2
    first = guide.entries[guide.split("test")[0]].key
    assert f"outputs are not finite for 28 of 28 images, first '{first}'" in capsys.readouterr().err
    assert not (tmp_path / "evaluate/bad-test/result.json").exists()


def test_listed_images_are_left_out_beside(done: Path, guide: Manifest, tmp_path: Path) -> None:
    found = Predictions.load(done / "predictions_test.npz")
    wrong = [guide.entries[entry].key for entry in found.entries[~found.correct]]
    (tmp_path / "listed.txt").write_text("\n".join(f"images/{key}.jpg" for key in wrong))
    assert evaluate(done / "model.safetensors", guide, tmp_path, f"exclude={tmp_path / 'listed.txt'}") == 0
    result = json.loads((tmp_path / "evaluate/done-test/result.json").read_text())
    assert result["test"]["top1"] == found.correct.mean() < 1
    rest = result["test"]["without_listed"]
    assert (rest["left_out"], rest["count"], rest["top1"]) == (len(wrong), 28 - len(wrong), 1.0)
    assert {"exclude", "weights"} <= result["inputs"].keys()


def test_a_fold_run_calibrates_the_final_fit(
    done: Path, guide: Manifest, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    before = json.loads((done / "result.json").read_text())
    assert before["val"]["temperature"] is before["test"]["temperature"] is None
    words = [f"train.temperature_from={done}", "train.max_steps=3"]
    assert main(small_run(guide, tmp_path, "final", *words)) == 0
    held_out = Predictions.load(done / "predictions_val.npz")
    result = json.loads((tmp_path / "classify/final/result.json").read_text())
    temperature = fit_temperature(held_out.logits, held_out.labels)
    assert result["test"]["temperature"] == pytest.approx(temperature)
    assert f"calibrated {result['test']['ece_calibrated']:.3f}" in capsys.readouterr().out
    assert "temperature_from" in result["inputs"]
    weights = tmp_path / "classify/final/model.safetensors"
    assert evaluate(weights, guide, tmp_path) == 0
    again = json.loads((tmp_path / "evaluate/final-test/result.json").read_text())["test"]
    assert again["ece_calibrated"] == pytest.approx(result["test"]["ece_calibrated"], rel=1e-4)
    capsys.readouterr()
    for folder, message in (
        (tmp_path / "classify/final", "measured no held-out fold"), (tmp_path, "no finished run there"),
    ):  # fmt: skip
        assert main(small_run(guide, tmp_path, "bad", f"train.temperature_from={folder}")) == 2
        assert message in capsys.readouterr().err
    assert main(small_run(guide, tmp_path, "bad", *words, "train.method=probe")) == 2
    assert "a probe calibrates itself" in capsys.readouterr().err
    assert main(small_run(guide, tmp_path, "bad", *words, "model.name=test_efficientnet")) == 2
    assert "a run of other shards or of another model (test_resnet)" in capsys.readouterr().err


def test_evaluate_measures_a_fold_at_another_size(done: Path, guide: Manifest, tmp_path: Path) -> None:
    words = ["evaluate", f"weights={done / 'model.safetensors'}", f"data.shards={guide.folder}", f"runs_dir={tmp_path}"]
    fold = ["split=held_out", "data.folds=4", "data.fold=1"]
    before = json.loads((done / "result.json").read_text())["val"]
    for name, more in {"same": [], "larger": ["size=64", "eval_crop=1"], "mirrored": ["flip=true"]}.items():
        assert main([*words, *fold, f"name={name}", *more]) == 0
        one = json.loads((tmp_path / f"evaluate/{name}/result.json").read_text())["held_out"]
        assert one["count"] == 20
        if name == "same":
            assert one["top1"] == before["top1"]
        else:
            assert one["nll"] != pytest.approx(before["nll"], rel=1e-3)
    assert main([*words, "split=held_out", "name=bad"]) == 2


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
        (["data.shards=/nowhere"], "/nowhere: no manifest.json there; build the shards with"),
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
