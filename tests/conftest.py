"""What the tests share: a small field guide in shards, the real birds where they are at hand, the command line."""

import gc
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

# Tests run beside one another: a thread each, or they spend their time waiting for each other's.
os.environ["OMP_NUM_THREADS"] = "1"

from accelerate.state import AcceleratorState

from jobs.shards import build_from
from shards.manifest import Manifest, read_manifest

SIZE = ["species=4", "train_per_class=20", "test_per_class=7", "size=64", "min_shards=3"]


def pytest_collection_finish() -> None:
    """What was imported stays: looking for garbage among it takes 0.3 s each time."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def guide(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    """Shards of 80 training and 28 test birds of 4 species."""
    out = tmp_path_factory.mktemp("guide") / "shards"
    build_from("field_guide", "-", out, SIZE)
    return read_manifest(out)


@pytest.fixture(scope="session")
def birds(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    """Shards of the real cub50."""
    root = os.environ.get("FGVC_REAL_DATA")
    if not root:
        pytest.skip("FGVC_REAL_DATA is not set: no real birds here")
    out = tmp_path_factory.mktemp("birds") / "shards"
    build_from("cub200", Path(root) / "cub50", out, [])
    return read_manifest(out)


@pytest.fixture
def any_precision() -> Iterator[Callable[[], None]]:
    """accelerate keeps a process to its first precision; a call of this has it forget that."""

    def forget() -> None:
        AcceleratorState._reset_state(reset_partial_state=True)

    forget()
    yield forget
    forget()


@pytest.fixture
def fgvc(tmp_path: Path) -> Callable[..., subprocess.Popen]:
    """Start `fgvc WORDS` in its own process group, in an empty folder, with what it prints in pipes."""

    def start(*words: str, threads: int = 1, **environment: str) -> subprocess.Popen:
        return subprocess.Popen(
            [sys.executable, "-m", "jobs.cli", *words],
            cwd=tmp_path,
            env=os.environ | {"OMP_NUM_THREADS": str(threads), "WANDB_MODE": "disabled"} | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    return start
