"""fgvc compare: intervals against scipy, figures against hand counts, a comparison killed and resumed, error lines."""

import json
import os
import signal
import statistics
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from places import ROOT
from scipy import stats

from fgvc.study.comparison import Measured, figures, paired_difference, table
from fgvc.study.statistics import paired_interval
from jobs.compare import main
from jobs.experiments.compare_results import notes
from jobs.experiments.compare_rows import check, list_runs, read
from shards.errors import UserError

TINY = {
    "image": {"size": 32}, "model": {"name": "test_resnet", "weights": "none"}, "optim": {"lr": 0.05},
    "train": {"batch": 8, "epochs": 2}, "track": {"wandb": "disabled"},
}  # fmt: skip


def test_paired_interval_agrees_with_scipy():
    random = np.random.default_rng(1)
    theirs = random.random(400) < 0.7
    ours = np.where(random.random(400) < 0.8, theirs, random.random(400) < 0.9)
    difference, low, high = paired_interval(ours, theirs)
    reference = stats.bootstrap(
        (ours.astype(float), theirs.astype(float)), lambda a, b, axis: (a - b).mean(axis=axis), paired=True,
        vectorized=True, method="percentile", n_resamples=10_000, rng=np.random.default_rng(2),
    )  # fmt: skip
    assert difference == pytest.approx(ours.mean() - theirs.mean())
    assert (low, high) == pytest.approx(reference.confidence_interval, abs=0.003)
    # Against the normal approximation of a paired difference too: the point of pairing is this small an error.
    error = (ours.astype(float) - theirs).std() / 20
    assert high - low == pytest.approx(2 * 1.96 * error, rel=0.05)


def measured(seed: int, fold: int, right: list[int], images: list[int], **result: object) -> Measured:
    """A run that names the images in `right` rightly."""
    values = np.array([float(image in right) for image in images])
    return Measured(seed, fold, {"parameters": 10} | result, {"val": (np.array(images), values)}, 100.0 + seed, 60.0)


def test_figures_are_those_counted_by_hand():
    first = [
        measured(0, 0, [0, 1], [0, 1, 2]), measured(0, 1, [3], [3, 4]),
        measured(1, 0, [0], [0, 1, 2]), measured(1, 1, [3], [3, 4]),
    ]  # fmt: skip
    second = [
        measured(0, 0, [0, 1, 2], [0, 1, 2]), measured(0, 1, [3, 4], [3, 4]),
        measured(1, 0, [0, 1], [0, 1, 2]), measured(1, 1, [4], [3, 4]),
    ]  # fmt: skip
    one, two = figures({"first": first, "second": second}, "val", 2, 2)
    assert one.per_seed == pytest.approx([3 / 5, 2 / 5])
    assert one.value == pytest.approx(0.5)
    assert one.std == pytest.approx(statistics.stdev([0.6, 0.4]))
    assert two.per_seed == pytest.approx([1, 3 / 5])
    assert two.difference is not None
    assert two.difference[0] == pytest.approx(0.8 - 0.5)
    # images 0-4: shares over seeds 1, 1/2, 0, 1, 0 against 1, 1, 1/2, 1/2, 1
    assert two.difference == paired_interval(np.array([1, 1, 0.5, 0.5, 1]), np.array([1, 0.5, 0, 1, 0]))
    assert (one.images, one.runs, one.planned, one.images_per_second, one.test_runs) == (5, 4, 4, 100.5, 0)
    text = table([one, two], "top-1")
    assert "+30.00 [" in text
    assert "runs" not in text.splitlines()[0]


def test_rows_with_missing_runs_are_paired_on_what_both_have():
    first = [measured(0, 0, [0], [0, 1]), measured(0, 1, [2], [2, 3])]
    second = [measured(0, 1, [2, 3], [2, 3])]
    _, two = figures({"first": first, "second": second, "third": []}, "val", 1, 2)[:2]
    assert two.difference is not None
    assert two.difference[0] == pytest.approx(0.5)
    assert two.per_seed == []
    assert "1 of 2" in table(figures({"first": first, "second": second, "third": []}, "val", 1, 2), "top-1")
    with pytest.raises(UserError, match="different images"):
        paired_difference([measured(0, 0, [0], [0, 1])], [measured(0, 0, [0], [0, 2])], "val")


def test_rows_that_touched_the_test_split_are_named_and_counted():
    run = measured(0, 0, [0], [0, 1])
    tested = replace(run, per_image=run.per_image | {"test": measured(0, 0, [7, 8, 9], [6, 7, 8, 9]).per_image["val"]})
    rows = figures({"kept": [run], "spent": [tested, replace(tested, fold=1)]}, "val", 1, 2)
    assert [(row.test_runs, row.test_value) for row in rows] == [(0, None), (2, 0.75)]
    assert "75.00" in table(rows, "top-1")
    assert "**1 row touched the test split, 2 measurements in all: spent.**" in notes({"spent": 2}, {})
    assert "No row touched the test split." in notes({}, {})


def write(path: Path, values: dict) -> str:
    path.write_text(yaml.safe_dump(values))
    return str(path)


@pytest.mark.parametrize("seeds", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_killed_comparison_goes_on_and_its_table_is_that_of_the_predictions(guide, fgvc, tmp_path, seeds):
    tiny = TINY | {"data": {"shards": str(guide.folder), "workers": 0}}
    write(tmp_path / "slow.yaml", tiny)
    write(tmp_path / "fast.yaml", tiny | {"optim": {"lr": 0.2}})
    words = ["compare", "slow.yaml", "fast.yaml", f"seeds={seeds}", "folds=2", "data.limit=24", "name=pair"]
    folder = tmp_path / "runs/compare/pair"

    listed, _ = fgvc(*words, "--dry-run").communicate(timeout=60)
    assert len(listed.splitlines()) == 4 * seeds
    assert all(line.startswith("new") for line in listed.splitlines())
    assert not folder.exists()

    first = fgvc(*words)
    wait_for(folder, "*/result.json", 1, first)
    wait_for(folder, "*/metrics.jsonl", 2, first)
    first.send_signal(signal.SIGKILL)
    first.communicate()
    before = {path: path.stat().st_mtime_ns for path in folder.glob("classify/*/result.json")}
    assert 0 < len(before) < 4 * seeds

    output, errors = fgvc(*words).communicate(timeout=400)
    assert "No row touched the test split" in output, errors
    for path, written in before.items():
        assert path.stat().st_mtime_ns == written, "a finished run was made again"
    assert_table_is_that_of_the_predictions(folder, seeds, output)
    assert not list(folder.glob("classify/*/predictions_test.npz"))
    assert (folder / "comparison.png").stat().st_size > 5_000

    # One more row that cannot work: it is named, what is there is still compared.
    write(tmp_path / "broken.yaml", tiny | {"model": {"name": "test_resnet", "weights": "missing.safetensors"}})
    broken = fgvc("compare", "slow.yaml", "broken.yaml", "folds=2", "use_folds=1", "data.limit=24", "name=pair")
    output, errors = broken.communicate(timeout=200)
    assert broken.returncode == 1
    assert "run broken-s0-f0 failed: fgvc classify: model.weights=missing.safetensors" in errors
    assert "0 of 1" in output
    assert not (folder / "result.json").exists()


def wait_for(folder: Path, pattern: str, count: int, process) -> None:
    until = time.monotonic() + 200
    while len(list(folder.glob(f"classify/{pattern}"))) < count:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < until
        time.sleep(0.05)


def assert_table_is_that_of_the_predictions(folder: Path, seeds: int, output: str) -> None:
    shares = {}
    for label in ("slow", "fast"):
        by_image: dict[int, list[bool]] = {}
        for seed in range(seeds):
            for fold in range(2):
                found = np.load(folder / f"classify/{label}-s{seed}-f{fold}/predictions_val.npz")
                for entry, logits, truth in zip(found["entries"], found["logits"], found["labels"], strict=True):
                    by_image.setdefault(int(entry), []).append(bool(logits.argmax() == truth))
        assert all(len(of_image) == seeds for of_image in by_image.values())
        shares[label] = {image: np.mean(of_image) for image, of_image in sorted(by_image.items())}
    assert shares["slow"].keys() == shares["fast"].keys()
    slow, fast = (np.array(list(shares[label].values())) for label in ("slow", "fast"))
    rows = json.loads((folder / "result.json").read_text())["rows"]
    assert [row["top1"] for row in rows] == pytest.approx([slow.mean(), fast.mean()])
    assert rows[1]["difference"] == pytest.approx(list(paired_interval(fast, slow)))
    for row in rows:
        assert row["images_per_second"] > 0
        assert row["evaluation_images_per_second"] > 0
        assert row["parameters"] > 10_000
        assert f"{100 * row['top1']:.2f}" in output
        assert (row["std"] is None) == (seeds == 1)


def test_stopping_is_passed_on_and_says_that_the_same_command_goes_on(guide, fgvc, tmp_path):
    write(tmp_path / "a.yaml", TINY | {"data": {"shards": str(guide.folder), "workers": 0}})
    process = fgvc("compare", "a.yaml", "folds=2", "train.epochs=400", "name=long")
    folder = tmp_path / "runs/compare/long"
    wait_for(folder, "*/checkpoints/*", 1, process)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 3
    assert "stopped by SIGTERM in a-s0-f0; the same command resumes" in errors
    assert "stopped by SIGTERM at step" in (folder / "logs/a-s0-f0.log").read_text()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "which configs?"),
        (["nowhere.yaml"], "nowhere.yaml: no such config file"),
        (["a.yaml", "seds=3"], "'seds=3': unknown key 'seds'; did you mean 'seed"),
        (["a.yaml", "optim.lrr=3"], "unknown key 'optim.lrr'; did you mean 'optim.lr'"),
        (["a.yaml", "optim.lr=fast"], "optim.lr='fast'"),
        (["a.yaml", "data.fold=1"], "'data.fold=1': set by the comparison"),
        (["a.yaml", "a.yaml"], "label 'a': two rows would share the name 'a'"),
        (["a.yaml", "two/a.yaml"], "label 'a': two rows would share the name 'a'"),
        (["a.yaml", "folds=0"], "folds=0 leaves only the test split"),
        (["a.yaml", "folds=2", "use_folds=3"], "folds=2 use_folds=3"),
        (["a.yaml", "seeds=0"], "seeds=0"),
        (["a.yaml", "other.yaml"], "row 'other': data.shards='elsewhere', but 'here' in the first row"),
        (["rows.yaml", "a.yaml"], "rows.yaml: a comparison file (it has rows) stands alone"),
        (["rows.yaml"], "rows.yaml: rows[1]: unknown key 'lable'; did you mean 'label'?"),
        (["own.yaml"], "own.yaml: rows[0]: 'seed' is set by the comparison"),
        (["none.yaml"], "none.yaml: rows is empty"),
        (["words.yaml"], "words.yaml: rows[0]: a row is {config: FILE"),
        (["set.yaml"], "unknown key 'optim.lrr'; did you mean 'optim.lr'"),
        (["a.yaml", "--on", "moon"], "--on moon: no such cluster"),
    ],
)
def test_slips_are_named_in_one_line(words, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "two").mkdir()
    for name in ("a.yaml", "two/a.yaml"):
        write(tmp_path / name, {"data": {"shards": "here"}})
    write(tmp_path / "other.yaml", {"data": {"shards": "elsewhere"}})
    write(tmp_path / "rows.yaml", {"rows": [{"config": "a.yaml"}, {"config": "a.yaml", "lable": "b"}]})
    write(tmp_path / "own.yaml", {"rows": [{"config": "a.yaml", "set": {"seed": 3}}]})
    write(tmp_path / "none.yaml", {"rows": []})
    write(tmp_path / "words.yaml", {"rows": ["a.yaml"]})
    write(tmp_path / "set.yaml", {"rows": [{"config": "a.yaml", "set": {"optim": {"lrr": 1}}}]})
    with pytest.raises(UserError) as caught:
        main([*words, "--dry-run"])
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "runs").exists()


def test_a_folder_that_holds_another_run_is_refused_before_anything_starts(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "a.yaml", {"data": {"shards": "here"}})
    config = read(["a.yaml", "folds=2"])
    folder = list_runs(config)[1].command.folder
    folder.mkdir(parents=True)
    (folder / "identity.json").write_text(json.dumps({"optim.lr": 0.3, "inputs.weights": "hub"}))
    with pytest.raises(UserError, match=r"a-s0-f1: holds a run of another config: .*optim.lr \(0.3 -> 0.01\)"):
        check(config, list_runs(config))


def test_both_forms_give_the_same_runs_and_rows_of_one_seed_and_fold_come_together(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "a.yaml", {"data": {"shards": "here"}})
    write(tmp_path / "b.yaml", {"data": {"shards": "here"}})
    rows = [{"config": "a.yaml"}, {"config": "b.yaml"}]
    write(
        tmp_path / "c.yaml", {"rows": rows, "seeds": 2, "folds": 2, "set": {"train": {"epochs": 3}}, "name": "a-vs-b"}
    )
    by_words = list_runs(read(["a.yaml", "b.yaml", "seeds=2", "folds=2", "train.epochs=3"]))
    assert [run.command.words for run in by_words] == [run.command.words for run in list_runs(read(["c.yaml"]))]
    assert [run.command.name for run in by_words[:4]] == ["a-s0-f0", "b-s0-f0", "a-s0-f1", "b-s0-f1"]
    assert by_words[0].command.folder == Path("runs/compare/a-vs-b/classify/a-s0-f0")


def test_configs_of_this_repository_are_sound(monkeypatch):
    monkeypatch.chdir(ROOT)
    for variable in ("FGVC_REAL_DATA", "FGVC_WEIGHTS"):
        monkeypatch.setitem(os.environ, variable, "anywhere")
    for file in sorted(Path("configs/compare").glob("*.yaml")):
        config = read([str(file), "name=not_run_before"])
        check(config, list_runs(config))


@pytest.mark.slow
def test_detectors_are_compared_by_their_top_box(guide, fgvc, tmp_path):
    """job=detect: the table's figure is the share of right top boxes, image by image, as result.json has it."""
    detect = {
        "image": {"size": 64}, "data": {"shards": str(guide.folder), "workers": 0, "limit": 24},
        "model": {"backbone": "test_efficientnet", "weights": "none", "channels": 16, "fc_channels": 32,
                  "proposals": 50, "samples": 32, "frozen_stages": 0, "norm_eval": False, "class_agnostic": True},
        "train": {"batch": 4, "epochs": 1}, "optim": {"head_multiplier": 1}, "track": {"wandb": "disabled"},
    }  # fmt: skip
    write(tmp_path / "slow.yaml", detect)
    write(tmp_path / "fast.yaml", detect | {"optim": {"lr": 0.02, "head_multiplier": 1}})
    process = fgvc("compare", "slow.yaml", "fast.yaml", "job=detect", "folds=2", "name=boxes")
    output, errors = process.communicate(timeout=500)
    assert process.returncode == 0, errors
    assert "| row" in output
    assert "top box right %" in output
    folder = tmp_path / "runs/compare/boxes"
    result = json.loads((folder / "result.json").read_text())
    assert result["headline"] == "top_right"
    for row in result["rows"]:
        runs = [folder / f"detect/{row['label']}-s0-f{fold}" for fold in (0, 1)]
        vals = [json.loads((run / "result.json").read_text())["val"] for run in runs]
        right = sum(round(val["top_right"] * val["count"]) for val in vals)
        assert row["top_right"] == pytest.approx(right / sum(val["count"] for val in vals))
