"""Ranks that exchange rows and wait for each other, and how many of them share a machine."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from places import ROOT
from ranks import start_ranks

from fgvc.runtime import distributed
from fgvc.runtime.distributed import gather_rows, ranks_here
from jobs.inputs import loader_workers
from shards.reading.config import DataConfig

SCRIPT = str(ROOT / "tests/helpers/rank_exchange.py")


def answers(folder: Path, kind: str) -> tuple[list[int], dict[int, dict[str, Any]]]:
    """Exit codes of two ranks, and what those said that came to their end."""
    started = start_ranks(folder, [SCRIPT, kind])
    for rank in started:
        print(rank.communicate(timeout=300)[1])  # pytest shows it where a test fails
    found = {number: folder / f"rank-{number}.json" for number in range(2)}
    said = {number: json.loads(path.read_text()) for number, path in found.items() if path.is_file()}
    return [rank.returncode for rank in started], said


def test_rows_of_all_ranks_are_gathered_whatever_their_number(tmp_path: Path) -> None:
    codes, said = answers(tmp_path, "rows")
    assert codes == [0, 0]
    object_of_rank_0 = [one.pop("object") for one in said.values()]
    assert object_of_rank_0 == ["of rank 0"] * 2
    assert said[0] == said[1] == dict.fromkeys(("some", "first none", "last none", "none", "int64"), True)


def test_ranks_wait_for_a_build_that_takes_longer_than_any_collective_may(tmp_path: Path) -> None:
    codes, said = answers(tmp_path, "slow")
    assert codes == [0, 0]
    assert [said[rank]["images"] for rank in range(2)] == [12, 12]
    assert said[1]["seconds"] > 13  # where collectives end after 10


def test_a_build_that_fails_is_every_rank_s_error(tmp_path: Path) -> None:
    codes, said = answers(tmp_path, "fails")
    assert codes == [0, 0]
    assert said[0]["error"] == said[1]["error"]
    assert said[0]["error"].startswith("no_such_source: no such source")


def test_a_rank_that_dies_while_it_builds_is_not_waited_for(tmp_path: Path) -> None:
    codes, said = answers(tmp_path, "dies")
    assert codes == [9, 0]
    assert said[1]["lost"].startswith("rank 1 of 2 lost another rank")
    assert said[1]["seconds"] < 60


def test_without_ranks_rows_are_one_s_own() -> None:
    rows = torch.rand(4, 2)
    assert gather_rows(rows) is rows


@pytest.mark.parametrize(
    ("world", "local", "expected"), [(1, None, 1), (8, None, 8), (8, "4", 4), (1, "4", 1), (8, "x", 8), (8, "0", 8)]
)
def test_ranks_of_this_machine(monkeypatch, world: int, local: str | None, expected: int) -> None:
    monkeypatch.setattr(distributed, "world_size", lambda: world)
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    if local is not None:
        monkeypatch.setenv("LOCAL_WORLD_SIZE", local)
    assert ranks_here() == expected


def test_a_machine_s_cores_are_divided_by_its_own_ranks(monkeypatch) -> None:
    """Of 16 ranks on two nodes, eight share these 64 cores; a Slurm task has cores of its own."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)))
    monkeypatch.setattr(distributed, "world_size", lambda: 16)
    monkeypatch.delenv("SLURM_CPUS_PER_TASK", raising=False)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "8")
    assert loader_workers(DataConfig()) == 6
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "16")
    assert loader_workers(DataConfig()) == 2
    monkeypatch.setenv("SLURM_PROCID", "3")
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "7")
    assert loader_workers(DataConfig()) == 5
    assert loader_workers(DataConfig(workers=1)) == 1
