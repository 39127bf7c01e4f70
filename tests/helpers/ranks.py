"""Ranks started by hand, as srun would start them."""

import json
import os
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from places import HELPERS


def start_ranks(folder: Path, command: list[str], ranks: int = 2) -> list[subprocess.Popen]:
    """`python COMMAND` as ranks that nobody watches over, as srun would start them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    started = []
    for rank in range(ranks):
        place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": ranks, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        environment = {key: str(value) for key, value in place.items()} | {"OMP_NUM_THREADS": "1"}
        started.append(
            subprocess.Popen(
                [sys.executable, *command], cwd=folder, env=os.environ | environment,
                stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
            )
        )  # fmt: skip
    return started


def run_ranks(folder: Path, command: list[str], ranks: int, seconds: float = 300) -> list[int]:
    """`python COMMAND` as ranks, to their end; their exit codes."""
    folder.mkdir(parents=True, exist_ok=True)
    started = start_ranks(folder, command, ranks)
    errors = [""] * ranks
    try:
        with ThreadPoolExecutor(ranks) as pool:  # all are read at once: one that waits for a reader keeps the others
            errors = list(pool.map(lambda rank: rank.communicate(timeout=seconds)[1], started))
    finally:
        for rank in started:
            rank.kill()
            rank.wait()
    codes = [rank.returncode for rank in started]
    assert all(code <= 0 for code in codes), errors
    return codes


def finish_all(
    folder: Path, runs: list[list[str]], ranks: int = 2, seconds: float = 550, script: str = "many_runs.py"
) -> None:
    """Several `fgvc` commands, one after another on the same ranks: torch is imported once."""
    (folder / "words.json").write_text(json.dumps(runs))
    assert run_ranks(folder, [str(HELPERS / script), "words.json"], ranks, seconds) == [0] * ranks
