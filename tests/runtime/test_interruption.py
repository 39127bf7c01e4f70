"""Runs that are killed, stopped, short of disk or given damaged checkpoints end as if nothing had happened."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from threading import Timer

import pytest
from interruptions import finish, kill_when, steps_done
from same_run import history, same_end
from small_runs import small_run

from fgvc.runtime.run_folder import open_run
from jobs.cli import main
from shards.errors import UserError
from shards.manifest import Manifest

Start = Callable[..., subprocess.Popen]
EVERY_STEP = ["train.deterministic=true", "train.checkpoint_minutes=0"]
# FGVC_KILLS=20 pytest tests/runtime/test_interruption.py -k sigkills_change
KILLS = int(os.environ.get("FGVC_KILLS", "2"))


def torture(start: Start, words: list[str], run: Path, kills: int, seed: int, **options: int) -> None:
    """SIGKILL at random moments, every second one while a checkpoint is being written."""
    draw = random.Random(seed)
    for kill in range(kills):
        process = start(*words, **options)
        target = steps_done(run) + draw.randint(0, max(1, (28 - steps_done(run)) // (kills - kill)))
        while steps_done(run) < target and process.poll() is None:
            time.sleep(0.002)
        writing = kill % 2 == 0
        kill_when(process, lambda writing=writing: not writing or any((run / "checkpoints").glob(".step-*.tmp")))


@pytest.fixture(scope="module")
def calm(guide: Manifest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of the same training, left alone."""
    runs = tmp_path_factory.mktemp("calm")
    assert main(small_run(guide, runs, "calm", *EVERY_STEP)) == 0
    return runs / "classify/calm"


def test_sigkills_change_no_bit(guide: Manifest, fgvc: Start, tmp_path: Path, calm: Path) -> None:
    words = small_run(guide, tmp_path / "runs", "killed", *EVERY_STEP)
    torture(fgvc, words, tmp_path / "runs/classify/killed", kills=KILLS, seed=1)
    assert main(words) == 0
    same_end(calm, tmp_path / "runs/classify/killed", 30)


@pytest.mark.slow
def test_sigkills_on_several_ranks_change_no_bit(guide: Manifest, fgvc: Start, tmp_path: Path) -> None:
    """Two ranks with workers and accumulation; four ranks are killed in `make chaos`."""
    runs, settings = tmp_path / "runs", [*EVERY_STEP, "data.workers=2", "train.accumulation=2"]
    finish(fgvc(*small_run(guide, runs, "calm", *settings), "--processes", "2"))
    killed = [*small_run(guide, runs, "killed", *settings), "--processes", "2"]
    torture(fgvc, killed, runs / "classify/killed", kills=KILLS, seed=2)
    finish(fgvc(*killed))
    same_end(runs / "classify/calm", runs / "classify/killed", 30)


def test_sigterm_saves_and_the_same_command_goes_on(
    guide: Manifest, fgvc: Start, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = tmp_path / "runs"
    words = small_run(guide, runs, "stopped", "train.deterministic=true")  # by the clock: one checkpoint an epoch
    process = fgvc(*words)
    while steps_done(runs / "classify/stopped") < 13:
        time.sleep(0.01)
    process.terminate()
    _, errors = finish(process, 3)
    assert "stopped by SIGTERM at step" in errors
    kept = max((runs / "classify/stopped/checkpoints").glob("step-*")).name
    assert int(kept.removeprefix("step-")) >= 13
    assert main(words) == 0
    output = capsys.readouterr().out
    assert "top-1" in output
    assert [row["step"] for row in history(runs / "classify/stopped")] == list(range(1, 31))
    assert main(words) == 0  # done already: the same figures, nothing trained, and that is said
    said, _, rest = capsys.readouterr().out.partition("\n")
    assert rest == output
    assert "stopped: this run was done at 20" in said


def test_damaged_checkpoint_is_passed_over(
    guide: Manifest, fgvc: Start, tmp_path: Path, calm: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = tmp_path / "runs/classify/killed"
    words = small_run(guide, tmp_path / "runs", "killed", *EVERY_STEP)
    kill_when(fgvc(*words), lambda: steps_done(run) >= 12)
    newest = max((run / "checkpoints").glob("step-*"))
    damaged = bytearray((newest / "shared.pt").read_bytes())
    damaged[len(damaged) // 2] ^= 1
    (newest / "shared.pt").write_bytes(damaged)
    assert main(words) == 0
    assert f"{newest.name} is damaged (shared.pt differs from its checksum)" in caplog.text
    same_end(calm, run, 30)


def test_full_disk_ends_in_one_line(guide: Manifest, fgvc: Start, tmp_path: Path, calm: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    mount = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", str(small)], capture_output=True)
    if mount.returncode:
        pytest.skip("cannot mount a small file system here (needs root)")
    try:
        words = small_run(guide, small / "runs", "full", *EVERY_STEP, "train.checkpoint_keep=4")
        _, errors = finish(fgvc(*words), 2)
        assert "no space left on the disk" in errors
        assert errors.strip().splitlines()[-1].startswith("fgvc classify: ")
        assert "Traceback" not in errors
        before = steps_done(small / "runs/classify/full")
        assert 0 < before < 30
        subprocess.run(["mount", "-o", "remount,size=64m", str(small)], check=True)
        assert main(words) == 0
        same_end(calm, small / "runs/classify/full", 30)
    finally:
        subprocess.run(["umount", "-l", str(small)], check=True)


def test_one_run_a_folder(guide: Manifest, fgvc: Start, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = small_run(guide, tmp_path / "runs", "one", "train.epochs=1000")
    run = tmp_path / "runs/classify/one"
    first = fgvc(*words)
    while steps_done(run) < 3:
        time.sleep(0.01)
    assert main(words) == 2
    assert "in use by another run" in capsys.readouterr().err
    first.terminate()
    finish(first, 3)
    assert main([*words, "optim.lr=0.06"]) == 2
    said = "holds a run of another config: optim.lr (0.05 -> 0.06); choose another name="
    assert said in capsys.readouterr().err
    shutil.rmtree(run)


@pytest.mark.parametrize("ranks", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_several_ranks_learn_what_one_learns(guide: Manifest, fgvc: Start, tmp_path: Path, ranks: int) -> None:
    """The same samples and mixing, so the same losses but for rounding (BatchNorm frozen: it sees its rank's part)."""
    runs, frozen = tmp_path / "runs", ["train.freeze_bn=statistics", "train.max_steps=12", "evaluate_test=false"]
    assert main(small_run(guide, runs, "one", *frozen)) == 0
    finish(fgvc(*small_run(guide, runs, "more", *frozen), "--processes", str(ranks)))
    one, more = history(runs / "classify/one"), history(runs / "classify/more")
    assert len(one) == len(more) == 12
    for left, right in zip(one, more, strict=True):
        assert left["loss"] == pytest.approx(right["loss"], rel=2e-4)
        assert left["top1"] == right["top1"]


def test_a_job_waits_for_its_former_self_and_for_nobody_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = f"""
from fgvc.runtime.run_folder import open_run
from jobs.cli import main
import time
with open_run({str(tmp_path)!r}, "classify", "one", {{}}, {{}}):
    print("held", flush=True)
    time.sleep(100)
"""
    environment = os.environ | {"SLURM_JOB_ID": "77"}
    holder = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=environment)
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        monkeypatch.setenv("SLURM_JOB_ID", "78")
        named = rf"classify/one: in use by job 77 \(process {holder.pid} on \S+\); wait for it"
        with pytest.raises(UserError, match=named), open_run(str(tmp_path), "classify", "one", {}, {}):
            pass
        monkeypatch.setenv("SLURM_JOB_ID", "77")  # started again, while its first start is still there
        Timer(1.5, holder.kill).start()
        began = time.monotonic()
        with open_run(str(tmp_path), "classify", "one", {}, {}):
            assert time.monotonic() - began > 1
            assert holder.wait() == -signal.SIGKILL
    finally:
        holder.kill()
