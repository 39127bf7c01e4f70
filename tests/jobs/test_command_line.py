"""What helps people find their way: names of configs, hints, completion, versions, status by name."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from places import ROOT
from small_runs import small_run

from jobs.classify import Config
from jobs.cli import main
from jobs.config import SHIPPED, load, load_job, nearest, walk
from jobs.configs import needs_of, purpose_of
from jobs.registry import COMMANDS
from shards.errors import UserError
from shards.manifest import Manifest

KEYS = [key for key, _ in walk(Config)]


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("train.lr", "optim.lr"),
        ("lr", "optim.lr"),
        ("train.epoch", "train.epochs"),
        ("optim.weight_dekay", "optim.weight_decay"),
        ("model.nme", "model.name"),
        ("batch_size", "train.batch"),
        ("xyz", ""),
    ],
)
def test_a_hint_names_the_right_thing_or_nothing(word: str, expected: str) -> None:
    assert nearest(word, KEYS) == (f"; did you mean '{expected}'?" if expected else "")


def test_shipped_configs_are_found_by_name_from_anywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("photos", "configs/classify/photos.yaml"):
        assert main(["classify", name, "--print-folder"]) == 0
        assert capsys.readouterr().out == "runs/classify/photos\n"
    (tmp_path / "photos").write_text("seed: 7\n")  # a file of that name is meant itself
    assert main(["classify", "photos", "--print-config"]) == 0
    assert "seed: 7" in capsys.readouterr().out
    assert main(["sweep", "field_guide", "--dry-run", "model.weights=none"]) == 0
    capsys.readouterr()
    assert main(["compare", "configs/compare/crops_cub50.yaml", "--dry-run"]) == 0
    capsys.readouterr()
    assert main(["classify", "configs/classify/photo.yaml"]) == 2
    assert "no such config file; did you mean 'configs/classify/photos.yaml'?" in capsys.readouterr().err
    assert main(["classify", "configs/classify/photos.yml"]) == 2
    assert "did you mean 'configs/classify/photos.yaml'?" in capsys.readouterr().err
    assert main(["classify", "photos.yaml"]) == 2  # the name is enough
    assert "photos.yaml: no such config file; did you mean 'photos'?" in capsys.readouterr().err
    assert main(["classify", "configs/classify/h100.yaml"]) == 2  # not configs/clusters/h100.yaml
    assert "no such config file; fgvc configs lists them" in capsys.readouterr().err


def test_configs_are_listed_with_what_they_need(capsys: pytest.CaptureFixture) -> None:
    assert main(["configs"]) == 0
    shown = capsys.readouterr().out
    for file in SHIPPED.glob("*/*.yaml"):
        assert f"{file.parent.name}/{file.stem}" in shown
        assert len(purpose_of(file)) > 10, file
    assert needs_of(SHIPPED / "classify/photos.yaml") == ["a download (model.weights=hub)"]
    assert needs_of(SHIPPED / "crop/cub50.yaml") == ["$FGVC_REAL_DATA", "$FGVC_WEIGHTS"]
    assert needs_of(SHIPPED / "crop/field_guide.yaml") == []
    assert "a GPU" in needs_of(SHIPPED / "sweeps/cub200_resnet50.yaml")
    assert main(["configs", "clasify"]) == 2


def test_photos_is_a_probe_on_any_folder_of_photographs() -> None:
    config = load_job("classify", SHIPPED / "classify/photos.yaml")
    assert (config.train.method, config.image.size, config.data.source) == ("probe", 224, "")


def test_version(capsys: pytest.CaptureFixture) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("fgvc 0.")


@pytest.mark.parametrize("words", [["--help"], ["classify", "--help"], ["shards", "--help"], ["shards", "build", "-h"]])
def test_a_reader_that_has_enough_is_no_error(words: list[str]) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "jobs.cli", *words]
    left = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, text=True)
    os.close(writing)
    assert left.stderr == ""
    assert left.returncode in (0, 141)  # argparse says nothing of a reader that is gone


def test_completion_completes_in_a_real_shell(capsys: pytest.CaptureFixture, tmp_path: Path) -> None:
    assert main(["completion", "bash"]) == 0
    script = tmp_path / "fgvc.bash"
    script.write_text(capsys.readouterr().out)

    def complete(*words: str) -> set[str]:
        line = " ".join(f"'{word}'" for word in words)
        code = f"source {script}; COMP_WORDS=({line}); COMP_CWORD={len(words) - 1}; _fgvc; echo ${{COMPREPLY[@]}}"
        shown = subprocess.run(["bash", "-c", code], capture_output=True, text=True, check=True)
        return set(shown.stdout.split())

    assert complete("fgvc", "") == set(COMMANDS)
    assert complete("fgvc", "cl") == {"classify", "cluster"}
    assert complete("fgvc", "classify", "pho") == {"photos"}
    assert complete("fgvc", "classify", "photos", "optim.l") == {"optim.lr=", "optim.lr_batch=", "optim.layer_decay="}
    assert complete("fgvc", "shards", "b") == {"build"}
    assert main(["completion", "zsh"]) == 0
    assert "bashcompinit" in capsys.readouterr().out
    assert main(["completion", "fish"]) == 2


def test_weights_are_asked_for_once(
    tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")  # nobody answers there
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    began = time.monotonic()
    assert main(["weights", "get", "resnet10t.c3_in1k"]) == 1, "nothing the user could set is wrong"
    assert time.monotonic() - began < 30
    errors = capsys.readouterr().err.strip().splitlines()
    assert "the hub does not answer, and its weights are not cached here" in errors[-1]
    assert main(["weights", "get", "resnet10"]) == 2
    assert "timm has no such model; did you mean resnet10t" in capsys.readouterr().err
    assert main(["weights", "get", "resnt50"]) == 2
    assert "timm has no such model; did you mean resnet50," in capsys.readouterr().err
    assert main(["weights", "get", "resnet10t.c3_in1k", "a.pth"]) == 2


def test_status_by_name(guide: Manifest, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(small_run(guide, tmp_path, "mine", "train.epochs=1", "data.limit=16")) == 0
    assert main([*small_run(guide, tmp_path / "sweep/lr", "trial-000", "train.epochs=1", "data.limit=16")]) == 0
    (tmp_path / "sweep/lr/identity.json").write_text(json.dumps({}))
    capsys.readouterr()
    for word in ("mine", "classify/mine", str(tmp_path / "classify/mine")):
        assert main(["status", word, f"runs_dir={tmp_path}"]) == 0
        shown = capsys.readouterr().out
        assert "classify/mine" in shown
        assert "last written" in shown
    for word in ("sweep/lr", "lr"):
        assert main(["status", word, f"runs_dir={tmp_path}"]) == 0
        rows = capsys.readouterr().out.splitlines()
        assert [row.split()[0] for row in rows[1:]] == ["sweep/lr", "sweep/lr/classify/trial-000"]
    assert main(["status", "other", f"runs_dir={tmp_path}"]) == 2


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ["explain", "methods=layercam"],
            "methods='layercam': Input should be a valid list; write methods='[layercam]'",
        ),
        (["classify", "broken.yaml"], "broken.yaml: not readable as YAML: while parsing a flow sequence at line 1"),
        (["classify", "list.yaml"], "list.yaml: a config is made of 'key: value' lines, this is a list"),
        (["classify", "data.shards=set/manifest.json"], "set/manifest.json: name the folder of the shards, set"),
    ],
)
def test_small_mistakes_are_told_with_their_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, words: list[str], said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "broken.yaml").write_text("image: [96\n")
    (tmp_path / "list.yaml").write_text("- 96\n")
    (tmp_path / "set").mkdir()
    (tmp_path / "set/manifest.json").write_text("{}")
    assert main(words) == 2
    assert said in capsys.readouterr().err


def test_unknown_files_of_other_kinds_are_no_hint(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such config file; fgvc configs lists them"):
        load(Config, tmp_path / "nothing.yaml")
    assert (ROOT / "configs").resolve() == SHIPPED
