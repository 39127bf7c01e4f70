"""Mistakes that used to show after a run folder was claimed, or not at all: one line, exit 2, the name stays free."""

import json
from pathlib import Path

import pytest
from small_runs import small_run

from fgvc.runtime.config import TrackConfig
from fgvc.runtime.tracking import wandb_mode
from jobs.cli import main
from jobs.config import load_job
from jobs.debug import debug_words
from jobs.hints import after_run
from jobs.launch import fetch_weights
from jobs.registry import command_module
from shards.errors import UserError
from shards.manifest import Manifest

VIT = ["model.name=test_vit", "image.size=100", "image.eval_size=100"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["train.batch=6", "train.accumulation=2"], "a micro-batch of 3 is odd; choose a multiple of 4"),
        (["train.batch=6", "--processes", "2"], "train.batch=6 on 2 rank(s) x train.accumulation=1"),
        (["train.batch=5"], "a micro-batch of 5 is odd; choose a multiple of 2"),
        (VIT, "image.size=100: model.name=test_vit does not take it: Input height (100) should be divisible"),
        (["train.freeze_layers=99", "track.wandb=offline"], "train.freeze_layers=99: this model has"),
    ],
)
def test_a_late_mistake_leaves_the_name_free(
    guide: Manifest, tmp_path: Path, capsys: pytest.CaptureFixture, words: list[str], message: str
) -> None:
    assert main(small_run(guide, tmp_path, "late", "train.epochs=1", "data.limit=16", *words)) == 2
    errors = capsys.readouterr().err
    assert message in errors.strip().splitlines()[-1]
    assert "Traceback" not in errors
    assert not (tmp_path / "classify/late/identity.json").exists()
    if "train.batch=5" in words:  # for one of them, what that means
        assert main(small_run(guide, tmp_path, "late", "train.epochs=1", "data.limit=16")) == 0


def test_an_unknown_wandb_mode_is_named_before_anything_is_made(
    guide: Manifest, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "off")
    assert main([*small_run(guide, tmp_path, "off"), "track.wandb=auto"]) == 2
    assert "WANDB_MODE=off: expected online, offline or disabled" in capsys.readouterr().err
    assert not (tmp_path / "classify").exists()
    assert wandb_mode(TrackConfig(wandb="offline")) == "offline"


def test_only_a_sweeps_agent_chooses_the_run_id(
    guide: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_RUN_ID", "left-over")
    short = ["train.epochs=1", "data.limit=16", "track.wandb=offline"]
    for name in ("one", "two"):
        assert main(small_run(guide, tmp_path, name, *short)) == 0
    one, two = ((tmp_path / "classify" / name / "wandb_id").read_text() for name in ("one", "two"))
    assert "left-over" not in (one, two)
    assert one != two
    monkeypatch.setenv("WANDB_SWEEP_ID", "a-sweep")
    assert main(small_run(guide, tmp_path, "trial", *short)) == 0
    assert (tmp_path / "classify/trial/wandb_id").read_text() == "left-over"


def test_every_so_many_steps_are_logged_and_epoch_ends_and_the_last(guide: Manifest, tmp_path: Path) -> None:
    assert main(small_run(guide, tmp_path, "rare", "track.every=4", "train.max_steps=25")) == 0
    rows = (tmp_path / "classify/rare/metrics.jsonl").read_text().splitlines()
    assert [json.loads(row)["step"] for row in rows] == [4, 8, 10, 12, 16, 20, 24, 25]


def test_settings_that_do_nothing_are_said(
    guide: Manifest, tmp_path: Path, capsys: pytest.CaptureFixture, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(UserError, match=r"optim.layer_decay: for classifiers only"):
        load_job("detect", None, ["optim.layer_decay=0.75"])
    words = ["optim.warmup_epochs=2", "train.epochs=1", "data.limit=16"]
    assert main(small_run(guide, tmp_path, "warm", *words)) == 0
    assert "optim.warmup_epochs=2 is not less than train.epochs=1" in caplog.text


def test_the_last_line_names_what_is_there(guide: Manifest, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    words = small_run(guide, tmp_path, "bare", "train.epochs=1", "data.limit=16", "evaluate_test=false")
    assert main(words) == 0
    said, *hints = capsys.readouterr().out.strip().partition("\nnext: ")
    named = said.rpartition("bare: ")[2].split(", ")
    assert hints[1].startswith(f"fgvc explain weights={tmp_path}/classify/bare/model.safetensors data.shards=")
    assert {"result.json", "model.safetensors", "training.png"} <= set(named)
    assert all((tmp_path / "classify/bare" / name).is_file() for name in named)


def test_the_hint_after_an_audit_keeps_the_weights_that_it_was_given(tmp_path: Path) -> None:
    config = load_job("audit", None, ["data.shards=data/mine", "model.weights=my weights.pth"])
    network = " model.name=tf_efficientnet_lite0 'model.weights=my weights.pth'"
    bare = "next: fgvc classify photos data.shards=data/mine"
    assert after_run("audit", config, tmp_path, {}) == bare + network
    config.model.weights = "hub"
    assert after_run("audit", config, tmp_path, {}) == bare


@pytest.mark.parametrize(
    "file", sorted(Path("configs/classify").glob("*.yaml")) + sorted(Path("configs/detect").glob("*.yaml"))
)
def test_debug_fits_every_shipped_config(file: Path) -> None:
    job = file.parent.name
    config = load_job(job, file, debug_words(command_module(job), file, []))
    assert config.train.batch <= 16
    assert config.train.max_steps <= 20
    assert not config.evaluate_test


def test_a_debug_run_that_a_mistake_ends_leaves_nothing(
    guide: Manifest, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    wrong = [*small_run(guide, tmp_path / "runs", "late", *VIT), "train.mixup=0", "--on", "debug"]
    assert main(wrong) == 2
    assert "does not take it" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()
    (tmp_path / "runs/classify/other").mkdir(parents=True)
    assert main(wrong) == 2
    assert [path.name for path in (tmp_path / "runs/classify").iterdir()] == ["other"]


def test_hints_name_settings_of_a_cluster_too(guide: Manifest, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    for word, hint in (
        ("nods=3", "'nodes'"), ("gpu_per_node=4", "'gpus_per_node'"), ("memry=3G", "'memory'"), ("sed=3", "'seed'"),
        ("lr=3", "'optim.lr'"), ("data.nods=3", "'data.folds'"),
    ):  # fmt: skip
        assert main([*small_run(guide, tmp_path, "x"), word, "--on", "cpu", "--dry-run"]) == 2
        assert f"unknown key '{word.split('=')[0]}'; did you mean {hint}?" in capsys.readouterr().err


def test_hub_weights_are_fetched_for_whatever_network_a_job_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    detector = tmp_path / "detector.yaml"
    detector.write_text("model: {backbone: resnet50, weights: none}\n")
    configs = [
        load_job("classify", None, ["model.name=resnet18"]),
        load_job("classify", None, ["model.name=resnet18", "seed=1"]),
        load_job("classify", None, ["model.name=resnet34", "model.weights=none"]),
        load_job("detect", None, ["model.backbone=resnet101"]),
        load_job("detect", None, ["model.backbone=cspnext_s", "model.weights=mine.pth"]),
        load_job("crop", None, [f"detect={detector}", "set.model.weights=hub", "set.train.epochs=2"]),
        load_job("evaluate", None, ["weights=model.safetensors"]),
    ]
    warnings = fetch_weights(configs)
    named = [warning.split(":")[0] for warning in warnings]
    assert named == ["model.name=resnet18", "model.name=resnet101.tv_in1k", "model.name=resnet50.tv_in1k"]
    assert all(warning.endswith("the job needs them on its nodes") for warning in warnings)


def test_debug_never_returns_an_old_result(guide: Manifest, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    words = [*small_run(guide, tmp_path, "x"), "train.max_steps=2", "--on", "debug"]
    assert main(words) == 0
    written = tmp_path / "classify/x/result.json"
    first, made = json.loads(written.read_text()), written.stat().st_mtime_ns
    assert "test" not in first
    assert first["val"]["count"]
    assert main(words) == 0
    assert written.stat().st_mtime_ns > made
    assert main(small_run(guide, tmp_path, "real", "train.epochs=1", "data.limit=16")) == 0
    assert main([*small_run(guide, tmp_path, "real"), "--on", "debug"]) == 2
    assert "holds a run that --on debug did not make" in capsys.readouterr().err


def test_checkpoints_go_with_the_last_step_unless_kept(
    guide: Manifest, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    words = [*small_run(guide, tmp_path, "done", "train.epochs=1", "data.limit=16")]
    assert main(words) == 0
    shown = capsys.readouterr().out
    assert not (tmp_path / "classify/done/checkpoints").exists()
    assert main([*words, "train.checkpoint_keep_finished=true"]) == 0  # changes no result: the same run, done already
    said, _, rest = capsys.readouterr().out.partition("\n")
    assert rest == shown
    assert said.endswith("figures and seconds are of then")
    assert main([*words, "name=kept", "train.checkpoint_keep_finished=true"]) == 0
    assert [path.name for path in (tmp_path / "classify/kept/checkpoints").iterdir()] == ["step-00000002"]
