"""train.compile=true compiles the network, on every rank, and trains what plain torch trains."""

from pathlib import Path

import pytest
from ranks import finish_all
from same_run import history
from small_runs import small_run

from shards.manifest import Manifest


@pytest.mark.parametrize("ranks", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_graphs_are_compiled_on_every_rank(
    guide: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ranks: int
) -> None:
    # The cheap backend: dynamo and autograd's graphs as always, without generated C++.
    monkeypatch.setenv("FGVC_COMPILE_BACKEND", "aot_eager")
    more = ["train.max_steps=4", "evaluate_test=false", "train.deterministic=true"]
    ways = {"plain": "false", "compiled": "true"}
    runs = [small_run(guide, tmp_path, name, *more, f"train.compile={way}") for name, way in ways.items()]
    finish_all(tmp_path, runs, ranks, script="compiled_run.py")
    graphs = {name: [int((tmp_path / f"graphs-{name}-{r}").read_text()) for r in range(ranks)] for name in ways}
    assert graphs["plain"] == [0] * ranks
    assert all(count >= 1 for count in graphs["compiled"])
    plain, compiled = (history(tmp_path / "classify" / name) for name in ("plain", "compiled"))
    assert len(plain) == len(compiled) == 4
    for one, other in zip(plain, compiled, strict=True):
        assert one["loss"] == pytest.approx(other["loss"], rel=1e-4)
