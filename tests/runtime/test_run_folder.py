"""Which runs a run folder takes for its own, and how long they took."""

import fcntl
import json
import os
import time
from pathlib import Path
from threading import Timer

import numpy as np
import pytest

from fgvc.runtime.chunks import in_chunks
from fgvc.runtime.run_folder import finish, open_run, refuse_another_config
from shards.errors import UserError


def claim(runs: Path, identity: dict, defaults: dict | None = None) -> None:
    with open_run(str(runs), "classify", "one", {}, identity, defaults=defaults) as folder:
        (folder.path / "metrics.jsonl").touch()


def fail(runs: Path, error: BaseException, seconds: float = 0) -> None:
    """A start that ends with an error, after `seconds` of training if there are any."""
    with open_run(str(runs), "classify", "one", {}, {}) as folder:
        folder.metrics.write_text("{}\n" if seconds else "")
        time.sleep(seconds)
        raise error


def test_a_new_version_resumes_the_runs_of_an_old_one(tmp_path: Path) -> None:
    """The old one had `seed`, which is gone, and had no `every`, whose default is 1."""
    claim(tmp_path, {"lr": 0.1, "seed": 3, "inputs.shards": "a"})
    claim(tmp_path, {"lr": 0.1, "every": 1, "inputs.shards": "a"}, {"lr": 0.5, "every": 1})
    for identity, changed in (
        ({"lr": 0.1, "every": 2, "inputs.shards": "a"}, r"every \(1 -> 2\)"),
        ({"lr": 0.5, "every": 1, "inputs.shards": "a"}, r"lr \(0.1 -> 0.5\)"),
        ({"lr": 0.1, "every": 1, "inputs.shards": "b"}, r"inputs.shards \('a' -> 'b'\)"),
        ({"lr": 0.1, "every": 1}, r"inputs.shards \('a' -> None\)"),
    ):
        with pytest.raises(UserError, match=f"one: holds a run of another config: {changed}; choose another name="):
            claim(tmp_path, identity, {"lr": 0.5, "every": 1})


def test_before_a_start_the_inputs_are_not_known(tmp_path: Path) -> None:
    claim(tmp_path, {"lr": 0.1, "inputs.shards": "a"})
    refuse_another_config(tmp_path / "classify/one", {"lr": 0.1}, {"lr": 0.1}, partial=True)
    with pytest.raises(UserError, match="lr"):
        refuse_another_config(tmp_path / "classify/one", {"lr": 0.2}, {"lr": 0.1}, partial=True)


def test_without_defaults_every_key_counts(tmp_path: Path) -> None:
    claim(tmp_path, {"parameters.lr": [0.1], "parameters.wd": [0.2]})
    with pytest.raises(UserError, match=r"parameters.wd \(\[0.2\] -> None\)"):
        claim(tmp_path, {"parameters.lr": [0.1]})


def test_the_times_of_all_starts_add_up(tmp_path: Path) -> None:
    """One start stopped after 0.3 s, one killed that had written for 60 s, and the last one's 2 s."""
    folder, starts = tmp_path / "classify/one", tmp_path / "classify/one/starts.json"
    with pytest.raises(KeyboardInterrupt):
        fail(tmp_path, KeyboardInterrupt(), seconds=0.3)
    [stopped] = json.loads(starts.read_text())
    assert 0.3 <= stopped["seconds"] < 3
    now = time.time()
    starts.write_text(json.dumps([stopped, {"began": now - 100}]))
    os.utime(folder / "metrics.jsonl", (now - 40, now - 40))
    with open_run(str(tmp_path), "classify", "one", {}, {}) as run:
        assert run.spent_s == pytest.approx(60 + stopped["seconds"], abs=0.2)
        assert finish(run, {}, {}, 2.0)["seconds"] == pytest.approx(62 + stopped["seconds"], abs=0.2)
    written = starts.read_text()
    with open_run(str(tmp_path), "classify", "one", {}, {}) as run:
        assert run.result is not None
    assert starts.read_text() == written  # printing a result takes no time


def test_a_mistake_leaves_no_time_behind(tmp_path: Path) -> None:
    with pytest.raises(UserError):
        fail(tmp_path, UserError("too late"))
    assert not (tmp_path / "classify/one/starts.json").exists()
    claim(tmp_path, {"lr": 2})


def test_chunks_of_a_start_that_failed_are_not_taken_for_another_configs(tmp_path: Path) -> None:
    def features(size: int, full: bool) -> list[int]:
        def work(batch: np.ndarray) -> dict[str, np.ndarray]:
            if full and 2 in batch:
                raise UserError("no space left on the disk")
            return {"size": np.full(len(batch), size)}

        with open_run(str(tmp_path), "classify", "one", {}, {"size": size}) as run:
            return in_chunks(run.features, range(4), 2, lambda parts: map(np.array, parts), work)["size"].tolist()

    with pytest.raises(UserError, match="no space"):
        features(224, full=True)
    with pytest.raises(UserError, match=r"another config: size \(224 -> 98\)"):  # half of its rows would be of 224
        features(98, full=False)
    assert features(224, full=False) == [224] * 4


def test_printing_a_result_leaves_the_environment_that_made_it(tmp_path: Path) -> None:
    with open_run(str(tmp_path), "classify", "one", {}, {}) as run:
        finish(run, {}, {}, 1.0)
    record = tmp_path / "classify/one/environment.json"
    record.write_text(json.dumps(json.loads(record.read_text()) | {"torch": "1.0"}))
    with open_run(str(tmp_path), "classify", "one", {}, {}) as run:
        assert run.result is not None
    assert json.loads(record.read_text())["torch"] == "1.0"


def test_a_glance_at_the_lock_refuses_no_start(tmp_path: Path) -> None:
    """As jobs.states.locked takes one."""
    claim(tmp_path, {})
    lock = (tmp_path / "classify/one/.lock").open("rb")
    fcntl.flock(lock, fcntl.LOCK_EX)
    Timer(0.1, lock.close).start()
    claim(tmp_path, {})
