"""fgvc compare: intervals against scipy, figures against hand counts, a comparison killed and resumed, error lines."""

import json
import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import yaml
from places import ROOT
from shown import shown

from fgvc.study.statistics import paired_interval
from jobs.cli import main as fgvc_main
from jobs.compare import main
from jobs.experiments.compare_rows import check, list_runs, read
from shards.errors import UserError

TINY = {
    "image": {"size": 32}, "model": {"name": "test_resnet", "weights": "none"}, "optim": {"lr": 0.05},
    "train": {"batch": 8, "epochs": 2}, "track": {"wandb": "disabled"},
}  # fmt: skip


def write(path: Path, values: dict) -> str:
    path.write_text(yaml.safe_dump(values))
    return str(path)


@pytest.mark.parametrize("seeds", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_killed_comparison_resumes_and_its_table_is_that_of_the_predictions(
    guide, fgvc, tmp_path, monkeypatch, capsys, seeds
):
    tiny = TINY | {"data": {"shards": str(guide.folder), "workers": 0}}
    write(tmp_path / "slow.yaml", tiny)
    write(tmp_path / "fast.yaml", tiny | {"optim": {"lr": 0.2}})
    words = ["compare", "slow.yaml", "fast.yaml", f"seeds={seeds}", "folds=2", "use_folds=1", "data.limit=24"]
    words.append("name=pair")
    folder = tmp_path / "runs/compare/pair"

    monkeypatch.chdir(tmp_path)
    assert main([*words[1:], "--dry-run"]) == 0
    listed = capsys.readouterr().out
    assert len(listed.splitlines()) == 2 * seeds
    assert all(line.startswith("new") for line in listed.splitlines())
    assert not folder.exists()

    first = fgvc(*words)
    wait_for(folder, "*/result.json", 1, first)
    wait_for(folder, "*/metrics.jsonl", 2, first)
    first.send_signal(signal.SIGKILL)
    first.communicate()
    before = {path: path.stat().st_mtime_ns for path in folder.glob("classify/*/result.json")}
    assert 0 < len(before) < 2 * seeds

    output, errors = fgvc(*words).communicate(timeout=400)
    assert "No row touched the test split" in output, errors
    for path, written in before.items():
        assert path.stat().st_mtime_ns == written, "a finished run was made again"
    assert_table_is_that_of_the_predictions(folder, seeds, output)
    assert not list(folder.glob("classify/*/predictions_test.npz"))
    assert "label,runs" in (folder / "table.csv").read_text()
    assert "\\toprule" in (folder / "table.tex").read_text()
    assert (folder / "comparison.png").stat().st_size > 5_000

    (table,) = (columns for caption, columns in shown(folder).items() if caption.startswith("pair: "))
    assert table[:5] == ["row", "top1", "difference, points", "verdict", "p"]

    assert main([str(folder / "config.yaml"), "--dry-run"]) == 0
    listed = capsys.readouterr().out
    assert listed.count("done") == len(listed.splitlines()) == 2 * seeds, "what it leaves makes it again"

    if seeds > 1:
        return
    # One more row that cannot work: it is named, what is there is still compared.
    write(tmp_path / "broken.yaml", tiny | {"model": {"name": "test_resnet", "weights": "missing.safetensors"}})
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert main(["slow.yaml", "broken.yaml", "folds=2", "data.limit=24", "name=pair"]) == 1
    shown_here = capsys.readouterr()
    assert "run broken-s0-f0 failed: fgvc classify: model.weights=missing.safetensors" in shown_here.err
    assert "; its row's other runs were not started" in shown_here.err
    assert "0 of 2" in shown_here.out
    assert {path.name for path in (folder / "logs").glob("*s0*")} >= {"slow-s0-f0.log", "slow-s0-f1.log"}
    assert not list(folder.glob("**/broken-s0-f1*"))
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
            found = np.load(folder / f"classify/{label}-s{seed}-f0/predictions_val.npz")
            for entry, logits, truth in zip(found["entries"], found["logits"], found["labels"], strict=True):
                by_image.setdefault(int(entry), []).append(bool(logits.argmax() == truth))
        assert all(len(of_image) == seeds for of_image in by_image.values())
        shares[label] = {image: np.mean(of_image) for image, of_image in sorted(by_image.items())}
    assert shares["slow"].keys() == shares["fast"].keys()
    slow, fast = (np.array(list(shares[label].values())) for label in ("slow", "fast"))
    rows = json.loads((folder / "result.json").read_text())["rows"]
    assert [row["top1"] for row in rows] == pytest.approx([slow.mean(), fast.mean()])
    assert rows[1]["difference"][0] == pytest.approx(paired_interval(fast, slow)[0])
    if seeds == 1:
        assert rows[1]["difference"] == pytest.approx(list(paired_interval(fast, slow)))
    for row in rows:
        assert row["images_per_second"] > 0
        assert row["evaluation_images_per_second"] > 0
        assert row["parameters"] > 10_000
        assert f"{100 * row['top1']:.2f}" in output
        assert (row["std"] is None) == (seeds == 1)


def test_stopping_is_passed_on_and_says_how_to_resume(guide, fgvc, tmp_path):
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
def test_mistakes_are_named_in_one_line(words, message, tmp_path, monkeypatch):
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


def test_a_run_on_shards_that_were_made_again_is_refused_before_anything_starts(guide, tmp_path, monkeypatch, capsys):
    """A finished one counts as done, here and with --on."""
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "a.yaml", {"data": {"shards": str(guide.folder)}})
    config = read(["a.yaml", "folds=2"])
    folder = list_runs(config)[1].command.folder
    folder.mkdir(parents=True)
    for fingerprint in (guide.fingerprint, "0123456789abcdef"):
        settings = {"data.folds": 2, "data.fold": 1, "evaluate_test": False}
        (folder / "identity.json").write_text(json.dumps(settings | {"inputs.shards": fingerprint}))
        if fingerprint == guide.fingerprint:
            check(config, list_runs(config))
    with pytest.raises(UserError, match=r"a-s0-f1: holds a run on another version of .*; delete that folder, or"):
        check(config, list_runs(config))
    (tmp_path / "runs/classify/a").mkdir(parents=True)
    (tmp_path / "runs/classify/a/identity.json").write_text(json.dumps({"inputs.shards": "0123456789abcdef"}))
    assert fgvc_main(["classify", "a.yaml", "--on", "h100", "--dry-run"]) == 2
    assert "runs/classify/a: holds a run on another version of" in capsys.readouterr().err


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


def test_configs_of_this_repository_are_valid(monkeypatch):
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
