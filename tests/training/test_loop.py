"""When the loop reads, saves, measures and leaves; checkpoints that are written beside it."""

import itertools
import json
import math
import os
import signal
import threading
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from counting_learner import Counting, Noting

from fgvc.runtime.interrupt import Interrupted
from fgvc.training import checkpoint, utilization
from fgvc.training.checkpoint import Writer, latest_valid, load, save
from fgvc.training.config import LoopConfig
from fgvc.training.loop import Evaluate, fit
from fgvc.training.rewind import Diverged
from fgvc.training.schedule import Schedule
from fgvc.training.state import unchanged_draws
from shards.errors import UserError

PER_EPOCH = 12


@pytest.fixture(autouse=True)
def _known_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the machine can do at most is not measured here: most of these tests' time."""
    monkeypatch.setattr(utilization, "matmul_rate", lambda *_: 1e12)


def train(
    folder: Path, learner: Counting, steps: int = PER_EPOCH, evaluate: Evaluate | None = None, **settings: Any
) -> Noting:
    folder.mkdir(exist_ok=True)
    tracker = Noting(folder, learner)
    config = LoopConfig(batch=1, **settings)
    fit(learner, itertools.repeat(None), config, Schedule(PER_EPOCH, steps), folder, tracker, evaluate)
    return tracker


def rows(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_figures_are_read_while_the_next_step_runs(tmp_path: Path) -> None:
    learner = Counting([float(step) for step in range(1, 13)])
    train(tmp_path, learner)
    happened = {event: place for place, event in enumerate(learner.events)}
    for step in (5, 6, 9, 10, 11):
        assert happened[f"learn {step + 1}"] < happened[f"log {step}"] < happened.get(f"learn {step + 2}", math.inf)
    assert happened["log 12"] < happened["save 12"]
    assert [(row["step"], row["loss"]) for row in rows(tmp_path)] == [(step, float(step)) for step in range(1, 13)]


@pytest.mark.parametrize("bad", [6, 12])  # read one step late; at an epoch's end
def test_a_loss_that_is_not_finite_reaches_no_checkpoint(tmp_path: Path, bad: int) -> None:
    learner = Counting([1.0] * (bad - 1) + [math.nan] * 20)
    with pytest.raises(Diverged, match=rf"the loss is nan at step {bad}; lower optim.lr"):
        train(tmp_path, learner, steps=24)
    assert learner.step == (7 if bad == 6 else 12)
    assert [row["step"] for row in rows(tmp_path)] == list(range(1, bad))
    assert latest_valid(tmp_path / "checkpoints") is None


def test_a_signal_at_an_epochs_end_saves_and_leaves_without_measuring(tmp_path: Path) -> None:
    """What was not measured is measured by the run that resumes, whose record is whole."""

    class Stopped(Counting):
        def learn(self, micro_batches: list[Any]) -> dict[str, Any]:
            if self.step == PER_EPOCH - 1:
                os.kill(os.getpid(), signal.SIGTERM)
            return super().learn(micro_batches)

    measured: list[int] = []
    learner = Stopped([1.5] * 24)

    def evaluate() -> dict[str, float]:
        measured.append(learner.step)
        return {"val_top1": learner.step / 100}

    with pytest.raises(Interrupted, match="stopped by SIGTERM at step 12"):
        train(tmp_path, learner, 24, evaluate)
    assert measured == []
    assert [row["step"] for row in rows(tmp_path)] == list(range(1, 12))
    found = latest_valid(tmp_path / "checkpoints")
    assert found is not None
    learner = Counting([1.5] * 24, load(found, "shared")["step"])
    train(tmp_path, learner, 24, evaluate)
    assert measured == [12, 24]
    assert learner.events[:2] == ["log 12", "learn 13"]
    assert [row["step"] for row in rows(tmp_path)] == list(range(1, 25))
    assert {row["step"]: row["val_top1"] for row in rows(tmp_path) if "val_top1" in row} == {12: 0.12, 24: 0.24}
    assert rows(tmp_path)[11]["lr"] == 0.1
    train(tmp_path, Counting([1.5] * 24, 24), 24, evaluate)  # nothing is left to measure
    assert measured == [12, 24]


def test_a_checkpoint_that_turns_out_broken_when_measured_is_no_longer_there(tmp_path: Path) -> None:
    learner = Counting([1.0] * 48)

    def evaluate() -> dict[str, float]:
        if learner.step == 24:
            raise Diverged("unlearnt")
        return {}

    with pytest.raises(Diverged):
        train(tmp_path, learner, 48, evaluate)
    assert latest_valid(tmp_path / "checkpoints") == tmp_path / "checkpoints/step-00000012"
    learner = Counting([1.0] * 24, 12)
    train(tmp_path, learner, 24, evaluate=lambda: {"val_top1": 0.5})
    assert [row["step"] for row in rows(tmp_path)] == list(range(1, 25))


def test_checkpoints_by_epochs(tmp_path: Path) -> None:
    learner = Counting([1.0] * 60)
    train(tmp_path, learner, 60, checkpoint_epochs=2, checkpoint_keep=9)
    saved = [int(event.split()[1]) for event in learner.events if event.startswith("save")]
    assert saved == [24, 48, 60]
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == [f"step-{n:08d}" for n in saved]


def test_damaged_later_checkpoints_do_not_cost_the_valid_ones(tmp_path: Path) -> None:
    for step in (10, 20, 30):
        save(tmp_path, step, {"shared": {"step": step}}, keep=2)
    for step in (20, 30):
        (tmp_path / f"step-{step:08d}/shared.pt").write_bytes(b"torn")
    assert latest_valid(tmp_path) is None
    for step in (5, 10, 15):  # begun again
        saved = save(tmp_path, step, {"shared": {"step": step}}, keep=2)
        assert latest_valid(tmp_path) == saved
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000010", "step-00000015"]


@pytest.fixture
def held_write(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Checkpoints are not written before this event is set."""
    event, write = threading.Event(), checkpoint._write

    def waiting(path: Path, state: Any) -> str:
        assert event.wait(30)
        return write(path, state)

    monkeypatch.setattr(checkpoint, "_write", waiting)
    return event


def test_training_goes_on_while_a_checkpoint_is_written(tmp_path: Path, held_write: threading.Event) -> None:
    class Goes(Counting):
        def learn(self, micro_batches: list[Any]) -> dict[str, Any]:
            if self.step == 15:
                assert latest_valid(tmp_path / "checkpoints") is None
                held_write.set()
            return super().learn(micro_batches)

    train(tmp_path, Goes([1.0] * 24), 24)
    names = [path.name for path in sorted((tmp_path / "checkpoints").iterdir())]
    assert names == ["step-00000012", "step-00000024"]
    for name in names:
        assert load(tmp_path / "checkpoints" / name, "shared")["weight"] == int(name[-2:])


def test_one_at_a_time_and_the_next_waits(tmp_path: Path, held_write: threading.Event) -> None:
    writer = Writer(tmp_path, keep=2)
    writer.begin(1, {"shared": {"step": 1}})
    assert not writer.written
    assert latest_valid(tmp_path) is None
    threading.Timer(0.2, held_write.set).start()
    writer.begin(2, {"shared": {"step": 2}})  # waits for the first
    assert (tmp_path / "step-00000001").is_dir()
    writer.finish()
    assert latest_valid(tmp_path) == tmp_path / "step-00000002"
    assert list(tmp_path.glob(".step*")) == []


def test_an_error_of_the_writing_thread_ends_the_run_at_the_next_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, state: Any) -> str:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "_write", full)
    learner = Counting([1.0] * 60)
    with pytest.raises(UserError, match="no space left on the disk; free some and start the same command again"):
        train(tmp_path, learner, 60)
    assert 12 < learner.step < 24
    assert list((tmp_path / "checkpoints").iterdir()) == []


def test_measuring_draws_nothing_and_leaves_the_other_ranks_gpus_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)  # torch would warn of, and ask, every one of them
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)  # else NVML's way to ask believes the two
    before = torch.get_rng_state()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with unchanged_draws():
            torch.rand(3)
    assert torch.equal(torch.get_rng_state(), before)
