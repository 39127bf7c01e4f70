"""Work in chunks: the same bits for any ranks and after any kill, nothing computed twice."""

import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch

from fgvc.runtime import chunks
from fgvc.runtime.chunks import in_chunks
from shards.errors import UserError


def load(parts: Sequence[Sequence[int]]) -> Iterator[np.ndarray]:
    yield from map(np.array, parts)


def draw(batch: np.ndarray) -> dict[str, np.ndarray]:
    return {"entry": batch, "drawn": torch.rand(len(batch)).numpy() + np.random.rand(len(batch))}


def test_all_entries_in_order_with_draws_by_chunk(tmp_path: Path) -> None:
    entries = [5, 3, 8, 1, 9, 2, 7]
    found = in_chunks(tmp_path / "a", entries, 3, load, draw, seed=4)
    assert found["entry"].tolist() == entries
    again = in_chunks(tmp_path / "b", entries[:6], 3, load, draw, seed=4)
    assert np.array_equal(again["drawn"], found["drawn"][:6])  # a chunk's draws do not hang on the others
    other = in_chunks(tmp_path / "c", entries, 3, load, draw, seed=5)
    assert not np.isclose(other["drawn"], found["drawn"]).any()


def test_what_was_computed_is_kept_and_the_damaged_is_done_again(tmp_path: Path) -> None:
    entries, calls = list(range(10)), []

    def work(batch: np.ndarray) -> dict[str, np.ndarray]:
        if 6 in batch and len(calls) < 4:
            calls.append(batch[0])
            raise KeyboardInterrupt
        calls.append(batch[0])
        return draw(batch)

    with pytest.raises(KeyboardInterrupt):
        in_chunks(tmp_path / "a", entries, 2, load, work)
    assert calls == [0, 2, 4, 6]
    damaged = tmp_path / "a" / "000001-2-4.npz"
    damaged.write_bytes(damaged.read_bytes()[:100])
    found = in_chunks(tmp_path / "a", entries, 2, load, work)
    assert calls == [0, 2, 4, 6, 2, 6, 8]
    whole = in_chunks(tmp_path / "b", entries, 2, load, draw)
    assert all(np.array_equal(found[name], whole[name]) for name in whole)


def test_a_chunk_that_is_lost_is_said_and_not_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = chunks._write
    monkeypatch.setattr(chunks, "_write", lambda path, arrays: None if "-2-4" in path.name else write(path, arrays))
    with pytest.raises(UserError, match=r"000001-2-4.npz: was written and cannot be read"):
        in_chunks(tmp_path, list(range(6)), 2, load, draw)


def test_chunks_of_another_size_are_not_mixed_in(tmp_path: Path) -> None:
    """Killed after two chunks of 32, resumed with 16, once gave 132 rows for 100 entries."""
    entries = list(range(100))

    def work(batch: np.ndarray) -> dict[str, np.ndarray]:
        if 64 in batch:
            raise KeyboardInterrupt
        return draw(batch)

    with pytest.raises(KeyboardInterrupt):
        in_chunks(tmp_path / "a", entries, 32, load, work)
    found = in_chunks(tmp_path / "a", entries, 16, load, draw)
    whole = in_chunks(tmp_path / "b", entries, 16, load, draw)
    assert found["entry"].tolist() == entries
    assert np.array_equal(found["drawn"], whole["drawn"])


WAITS = """
import sys, time
from datetime import timedelta
from pathlib import Path
import numpy as np, torch.distributed as dist
from fgvc.runtime.chunks import in_chunks
from fgvc.runtime.distributed import end_group

number, folder = int(sys.argv[1]), Path(sys.argv[2])
store = dist.FileStore(str(folder / "store"), 2)
dist.init_process_group("gloo", store=store, rank=number, world_size=2, timeout=timedelta(seconds=3))
def work(batch):
    time.sleep(8 * (batch[0] == 1))
    return {"entry": batch}
found = in_chunks(folder / "chunks", [0, 1], 1, lambda parts: map(np.array, parts), work)
assert found["entry"].tolist() == [0, 1]
end_group()
"""


def test_a_chunk_may_take_longer_than_a_collectives_time_out(tmp_path: Path) -> None:
    ranks = [
        subprocess.Popen([sys.executable, "-c", WAITS, str(number), str(tmp_path)], stderr=subprocess.PIPE, text=True)
        for number in range(2)
    ]
    for process in ranks:
        _, errors = process.communicate(timeout=90)
        assert process.returncode == 0, errors


def test_every_rank_takes_every_second_chunk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunks, "world_size", lambda: 2)
    taken = {}
    for number in (1, 0):
        monkeypatch.setattr(chunks, "rank", lambda number=number: number)
        monkeypatch.setattr(chunks, "broadcast_object", lambda value: [0, 1, 2, 3])
        taken[number] = []

        def work(batch: np.ndarray, number: int = number) -> dict[str, np.ndarray]:
            taken[number] += batch.tolist()
            return draw(batch)

        (tmp_path / "a").mkdir(exist_ok=True)
        with suppress(UserError):  # rank 1's: it does not wait here for the chunks of rank 0
            found = in_chunks(tmp_path / "a", range(4), 1, load, work)
    assert taken == {1: [1, 3], 0: [0, 2]}
    monkeypatch.undo()
    assert np.array_equal(found["drawn"], in_chunks(tmp_path / "b", range(4), 1, load, draw)["drawn"])
