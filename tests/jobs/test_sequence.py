"""Commands one after another and side by side: locks that are held, failures, what waits for what."""

import os
import threading
import time
from pathlib import Path

import pytest
from filelock import FileLock

from jobs.experiments import sequence
from jobs.experiments.machine import Share, shares_of_machine
from jobs.experiments.sequence import Command, run_all


def wrong(name: str, folder: Path) -> Command:
    """A command that fails at once."""
    return Command(name, (f"no-such-{name}",), folder / name, folder / f"{name}.log")


@pytest.fixture
def held(tmp_path: Path) -> FileLock:
    """The lock of run `b`, held by somebody else."""
    (tmp_path / "b").mkdir()
    lock = FileLock(tmp_path / "b/.lock", thread_local=False)
    lock.acquire()
    return lock


def test_a_lock_that_is_held_keeps_nobody_else_waiting(tmp_path: Path, held: FileLock) -> None:
    release = threading.Timer(3, held.release)
    began = time.monotonic()
    release.start()
    failed = run_all([wrong("b", tmp_path), wrong("a", tmp_path)], "test")
    assert list(failed) == ["a", "b"]  # a first: b was in use
    assert 3 <= time.monotonic() - began < 60
    assert "no-such-b" in failed["b"].reason


def test_a_failure_beside_a_lock_that_is_held_ends_it(tmp_path: Path, held: FileLock) -> None:
    began = time.monotonic()
    failed = run_all([wrong("a", tmp_path), wrong("b", tmp_path)], "test", first_failure_ends=True, at_once=2)
    assert list(failed) == ["a"]
    assert time.monotonic() - began < 60
    held.release()


def test_a_lock_that_is_never_given_back_is_the_commands_to_report(
    tmp_path: Path, held: FileLock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sequence, "LOCK_SECONDS", 1)
    assert list(run_all([wrong("b", tmp_path)], "test")) == ["b"]
    held.release()


def test_what_waits_for_a_failed_command_is_not_run(tmp_path: Path) -> None:
    commands = [wrong("a", tmp_path), wrong("b", tmp_path), wrong("c", tmp_path)]
    failed = run_all(commands, "test", first_failure_ends=True, after={"b": ["a"], "c": ["b"]}, at_once=3)
    assert list(failed) == ["a"]
    assert not (tmp_path / "b.log").exists()


def test_shares_of_a_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1, 2, 5, 7})
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,3,4")
    assert shares_of_machine(1) == [Share()]
    assert shares_of_machine(2) == [Share((0, 1), ("0",)), Share((2, 5), ("3",))]  # all alike
    assert [share.gpus for share in shares_of_machine(9)] == [("0",), ("3",), ("4",), ("0",), ("3",)]
    assert {len(share.cores) for share in shares_of_machine(9)} == {1}
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert shares_of_machine(2) == [Share((0, 1)), Share((2, 5))]
