"""Which runs a run folder takes for its own."""

from pathlib import Path

import pytest

from fgvc.runtime.run_folder import open_run, refuse_another_config
from shards.errors import UserError


def claim(runs: Path, identity: dict, defaults: dict | None = None) -> None:
    with open_run(str(runs), "classify", "one", {}, identity, defaults=defaults) as folder:
        (folder.path / "metrics.jsonl").touch()


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
