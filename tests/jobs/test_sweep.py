"""Sweeps: a driver is killed and started again, here and on a real Slurm: no trial lost, none run twice."""

import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from slurm_helpers import skip_without_cluster
from wandb_stub import serve

from fgvc.study import search
from fgvc.study.search import ask
from jobs.cli import main
from jobs.experiments.runners import Processes
from jobs.experiments.sequence import Command
from jobs.experiments.sweep_file import read_sweep
from jobs.experiments.trials import PlannedSweep, read_trials
from shards.errors import UserError
from slurm.queue import read_record
from slurm.testbed.cluster import Testbed, client, down, up

# `fgvc WORDS` whose search goes by scores after two trials, not five.
EARLY = "import sys; from fgvc.study import search; search.STARTUP = 2; from jobs.cli import main; sys.exit(main())"


@pytest.fixture
def sweep(guide, tmp_path):
    """Writes a sweep over a tiny network and its config; a trial takes seconds."""

    def write(method: str = "bayes", **values) -> None:
        tiny = {
            "data": {"shards": str(guide.folder), "workers": 0}, "image": {"size": 32}, "optim": {"lr": 0.05},
            "model": {"name": "test_resnet", "weights": "none"}, "track": {"wandb": "disabled"},
            "train": {"batch": 8, "epochs": 2, "deterministic": True},
        }  # fmt: skip
        (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(tiny))
        file = {
            "command": [
                "fgvc", "classify", "tiny.yaml", "train.ema=0.5", "data.folds=2", "evaluate_test=false",
                "${args_no_hyphens}",
            ],
            "method": method, "metric": {"name": "val_top1", "goal": "maximize"}, "run_cap": 4,
            "parameters": {
                "optim.lr": {"distribution": "log_uniform_values", "min": 0.001, "max": 0.3},
                "train.mixup": {"values": [0.0, 0.2]},
            },
        }  # fmt: skip
        (tmp_path / "s.yaml").write_text(yaml.safe_dump(file | values))

    return write


def kill_after(process, folder: Path, done: int, begun: int) -> dict[Path, int]:
    """SIGKILL the driver once so many trials are done and so many begun; when each result was written."""
    until = time.monotonic() + 300
    while (
        len(list(folder.glob("classify/*/result.json"))) < done
        or len(list(folder.glob("classify/*/metrics.jsonl"))) < begun
    ):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < until
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    return {path: path.stat().st_mtime_ns for path in folder.glob("classify/*/result.json")}


def asked(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "trials.jsonl").read_text().splitlines()]


def assert_whole(folder: Path, count: int, before: dict[Path, int]) -> list[float]:
    """Every trial was asked for once, ran once, from its first step to its last; returns their scores."""
    assert [row["number"] for row in asked(folder)] == list(range(count))
    names = [f"trial-{number:03}" for number in range(count)]
    assert sorted(path.name for path in (folder / "classify").iterdir() if path.name != "slurm") == names
    for path, written in before.items():
        assert path.stat().st_mtime_ns == written, "a finished trial was run again"
    scores = []
    for row, name in zip(asked(folder), names, strict=True):
        run = folder / "classify" / name
        steps = [json.loads(line)["step"] for line in (run / "metrics.jsonl").read_text().splitlines()]
        assert steps == list(range(1, len(steps) + 1)), "one history, without gaps or repeats"
        config = yaml.safe_load((run / "config.yaml").read_text())
        assert config["optim"]["lr"] == row["values"]["optim.lr"]
        assert config["evaluate_test"] is False
        assert not (run / "predictions_test.npz").exists()
        scores.append(json.loads((run / "result.json").read_text())["val"]["top1"])
    result = json.loads((folder / "result.json").read_text())
    assert list(result["trials"].values()) == scores
    assert result["best"]["value"] == max(scores)
    assert result["best"]["settings"] == asked(folder)[scores.index(max(scores))]["values"]
    assert (folder / "sweep.png").stat().st_size > 8000
    return scores


def test_killed_driver_goes_on(sweep, fgvc, tmp_path, monkeypatch, capsys):
    sweep(run_cap=3)
    folder = tmp_path / "runs/sweep/s"
    before = kill_after(fgvc("sweep", "s.yaml", "parallel=2"), folder, done=1, begun=2)
    assert 1 <= len(before) < 3
    was_asked = asked(folder)
    output, errors = fgvc("sweep", "s.yaml", "parallel=2").communicate(timeout=500)
    assert asked(folder)[: len(was_asked)] == was_asked
    scores = assert_whole(folder, 3, before)
    best = f"trial-{scores.index(max(scores)):03}, val_top1 {max(scores):.4f}"
    assert f"best: {best} of 40 held-out images" in output, errors
    assert "sweep s 3/3 trial-" in errors
    # What to run next is the best trial as it was: the sweep file's own settings too.
    advice = next(line for line in output.splitlines() if line.startswith("next: fgvc compare tiny.yaml folds=5 "))
    assert f"optim.lr={asked(folder)[scores.index(max(scores))]['values']['optim.lr']}" in advice
    assert "train.ema=0.5" in advice
    assert "data.fold" not in advice

    # Done: the same command says so at once; a larger cap continues it; another file of the same name is refused.
    monkeypatch.chdir(tmp_path)
    assert main(["sweep", "s.yaml"]) == 0
    assert best in capsys.readouterr().out
    assert main(["sweep", "s.yaml", "run_cap=4", "--dry-run"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == ["done"] * 3 + ["new"]
    sweep(parameters={"optim.lr": {"values": [0.1, 0.2]}})
    assert main(["sweep", "s.yaml"]) == 2
    assert "holds a run of another config: parameters.optim.lr" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_trials_of_a_driver_killed_twice_are_those_of_an_undisturbed_one(sweep, tmp_path, monkeypatch):
    sweep(run_cap=4)
    folder = tmp_path / "runs/sweep/s"
    before: dict[Path, int] = {}

    def driver() -> subprocess.Popen:
        command = [sys.executable, "-c", EARLY, "sweep", "s.yaml"]
        here = os.environ | {"WANDB_MODE": "disabled"}
        return subprocess.Popen(
            command, cwd=tmp_path, env=here, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    for done, begun in ((1, 2), (2, 3)):
        before |= kill_after(driver(), folder, done, begun)
    _, errors = driver().communicate(timeout=1500)
    assert_whole(folder, 4, before)
    assert len(before) >= 2, errors
    # An undisturbed driver asks for each trial when all before it have their scores, which the search then goes by.
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(search, "STARTUP", 2)
    plan = PlannedSweep(read_sweep(Path("s.yaml"), []), folder, 4, 0)
    trials = read_trials(plan)
    questions = set()
    for scores in itertools.permutations((0.1, 0.2, 0.3)):
        history = [replace(trial, score=score) for trial, score in zip(trials[:3], scores, strict=True)]
        questions.add(str(ask(plan.sweep.method, plan.sweep.parameters, plan.seed, history).units))
    assert len(questions) > 1, "what is asked for does not hang on scores"
    for number, row in enumerate(asked(folder)):
        trial = ask(plan.sweep.method, plan.sweep.parameters, plan.seed, trials[:number])
        assert (trial.units, trial.values) == (row["units"], row["values"])


def test_three_failures_in_a_row_end_a_sweep_and_a_stopped_one_says_how_to_go_on(sweep, fgvc, tmp_path):
    sweep("random")
    process = fgvc("sweep", "s.yaml", "model.weights=missing.safetensors", "name=bad", "run_cap=9", "parallel=2")
    _, errors = process.communicate(timeout=200)
    assert process.returncode == 2
    assert "trials in a row failed, the last one with: fgvc classify: model.weights=missing.safetensors" in errors
    assert len(asked(tmp_path / "runs/sweep/bad")) < 6

    process = fgvc("sweep", "s.yaml", "train.epochs=400")
    folder = tmp_path / "runs/sweep/s"
    until = time.monotonic() + 100
    while not list(folder.glob("classify/*/checkpoints/*")):
        assert time.monotonic() < until
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=100)
    assert process.returncode == 3
    assert "stopped by SIGTERM; trial-000 saved and ended; the same command resumes" in errors


def test_scores_are_read_from_the_folders_and_damage_is_named(sweep, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    sweep(metric={"name": "val_ece", "goal": "minimize"})
    plan = PlannedSweep(read_sweep(Path("s.yaml"), []), tmp_path / "runs/sweep/s", 4, 0)
    plan.folder.mkdir(parents=True)
    rows = [{"number": i, "units": {"optim.lr": 0.5, "train.mixup": 0}, "values": {}} for i in range(3)]
    (plan.folder / "trials.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for number, val in ((0, {"ece": 0.25}), (1, {"ece": float("nan")})):
        folder = plan.folder / f"classify/trial-00{number}"
        folder.mkdir(parents=True)
        (folder / "result.json").write_text(json.dumps({"val": val}))
    first, second, third = read_trials(plan)
    assert (first.score, second.failed, third.score, third.failed) == (-0.25, True, None, False)
    (plan.folder / "trials.jsonl").write_text('{"number": 0, "un')
    with pytest.raises(UserError, match=r"trials\.jsonl: damaged"):
        read_trials(plan)


def test_scores_of_shards_that_were_made_again_choose_nothing(sweep, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    sweep()
    trial = tmp_path / "runs/sweep/s/classify/trial-000"
    trial.mkdir(parents=True)
    row = {"number": 0, "units": {"optim.lr": 0.5, "train.mixup": 0}, "values": {"optim.lr": 0.01, "train.mixup": 0.0}}
    (trial.parents[1] / "trials.jsonl").write_text(json.dumps(row) + "\n")
    (trial / "identity.json").write_text(json.dumps({"inputs.shards": "0123456789abcdef"}))
    (trial / "result.json").write_text(json.dumps({"val": {"top1": 0.9}}))
    assert main(["sweep", "s.yaml"]) == 2
    assert "trial-000: holds a run on another version of" in capsys.readouterr().err


def test_parallel_trials_have_a_gpu_and_a_share_of_the_cores_each(monkeypatch, tmp_path):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,5")
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1, 2, 3, 6})
    seen = []
    monkeypatch.setattr("jobs.experiments.runners.Process", lambda command, share: seen.append(share))
    commands = [Command(str(number), (), tmp_path / str(number), tmp_path / "log") for number in range(3)]
    Processes(3).start(commands)
    assert [share.gpus for share in seen] == [("2",), ("5",), ("2",)]
    assert [share.cores for share in seen] == [(0,), (1,), (2,)]
    seen.clear()
    Processes(9).start(commands * 3)  # more than there are cores
    assert [share.cores for share in seen] == [(core,) for core in (0, 1, 2, 3, 6, 0, 1, 2, 3)]


@pytest.fixture(scope="module")
def testbed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Testbed]:
    skip_without_cluster()
    cluster = up(tmp_path_factory.mktemp("s"))
    yield cluster
    down(cluster.folder)


@pytest.mark.slow
def test_on_a_cluster_the_trials_outlive_the_driver(sweep, fgvc, tmp_path, testbed):
    """Two nodes a trial, the driver killed, the job of a trial requeued: the same jobs go on, every trial ran once."""
    sweep(run_cap=2)
    folder, words = tmp_path / "runs/sweep/s", ("sweep", "s.yaml", "--on", "testbed", "nodes=2", "parallel=2")
    before = kill_after(fgvc(*words, **testbed.env), folder, done=0, begun=2)
    jobs = {name: read_record(folder / f"classify/{name}") for name in ("trial-000", "trial-001")}
    client(testbed, "scontrol", "requeue", str(jobs["trial-000"]["job"]))  # type: ignore[index]
    _, errors = fgvc(*words, **testbed.env).communicate(timeout=500)
    assert (folder / "result.json").is_file(), errors
    assert_whole(folder, 2, before)
    assert {name: read_record(folder / f"classify/{name}") for name in jobs} == jobs, "no second job for a trial"
    log = Path(jobs["trial-000"]["log"]).read_text()  # type: ignore[index]
    assert " restarts (Slurm" in log


@pytest.mark.slow
def test_trials_of_wandbs_server_are_jobs_of_two_nodes_whose_first_rank_owns_the_run(sweep, fgvc, tmp_path, testbed):
    """W&B's own agent against a stub of its server; the runs themselves are offline ones."""
    sweep()
    config = yaml.safe_load((tmp_path / "s.yaml").read_text()) | {"program": "fgvc"}
    config["command"].insert(-1, "track.wandb=offline")
    trials = [{"optim.lr": 0.02, "train": {"mixup": 0.2}}, {"optim.lr": 0.05, "train": {"mixup": 0.0}}]
    with serve(config, trials) as (environment, reported):
        words = ("sweep", "agent", "me/birds/abcd1234", "--on", "testbed", "nodes=2")
        process = fgvc(*words, **testbed.env, **environment)
        output, errors = process.communicate(timeout=500)
    folder = tmp_path / "runs/sweep/abcd1234/classify"
    for number, trial in enumerate(trials):
        run = folder / f"run-{number}"
        assert (run / "result.json").is_file(), output + errors
        settings = yaml.safe_load((run / "config.yaml").read_text())
        assert (settings["optim"]["lr"], settings["train"]["mixup"]) == (trial["optim.lr"], trial["train"]["mixup"])
        assert settings["evaluate_test"] is False
        [recorded] = run.glob("wandb/offline-run-*/run-*.wandb")
        assert recorded.name == f"run-run-{number}.wandb", "the run that the server knows, and one for both ranks"
        assert b"abcd1234" in recorded.read_bytes(), "it belongs to the sweep"
        assert (run / "wandb_id").read_text() == f"run-{number}"
        shown = client(testbed, "scontrol", "-o", "show", "job", str(read_record(run)["job"]))  # type: ignore[index]
        assert "NumNodes=2" in shown
    assert process.returncode == 0
    assert {key for states in reported for key in states} == {"run-0", "run-1"}


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_plain_wandb_agent_gives_every_trial_a_run_folder(sweep, tmp_path):
    sweep()
    config = yaml.safe_load((tmp_path / "s.yaml").read_text()) | {"program": "fgvc"}
    config["command"].insert(-1, "track.wandb=offline")
    with serve(config, [{"optim.lr": 0.02}, {"optim": {"lr": 0.05}}]) as (environment, _):
        here = os.environ | environment | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
        command = [sys.executable, "-m", "wandb", "agent", "me/birds/abcd1234"]
        ended = subprocess.run(command, cwd=tmp_path, env=here, capture_output=True, text=True, timeout=900)
    for number, lr in enumerate((0.02, 0.05)):
        run = tmp_path / f"runs/classify/run-{number}"
        assert (run / "result.json").is_file(), ended.stdout + ended.stderr
        assert yaml.safe_load((run / "config.yaml").read_text())["optim"]["lr"] == lr
        assert (run / "wandb_id").read_text() == f"run-{number}"
