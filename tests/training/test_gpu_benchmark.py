"""benchmarks/gpu.py, which is meant for a GPU, measures on a CPU too."""

import subprocess
import sys

import pytest
from places import ROOT


@pytest.mark.slow
def test_every_loop_is_measured_and_every_strategy() -> None:
    command = [sys.executable, str(ROOT / "benchmarks/gpu.py"), "--device", "cpu", "--tiny", "--ranks", "2"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in done.stdout.splitlines() if line[:1] == "|"]
    measured = {(row[0], row[1]): float(row[2]) * float(row[3]) / 1e3 for row in rows[2:]}  # images a step
    for network in ("test_resnet, 64", "test_vit, 64"):
        for loop in ("bare", "timm's style", "FGVC", "FGVC, compiled"):
            assert measured.pop((f"{network}, batch 4", loop)) == pytest.approx(4, rel=0.05)
        for strategy in ("ddp", "fsdp"):
            assert measured.pop((f"{network}, 2 x 4", strategy)) == pytest.approx(8, rel=0.05)
        assert f"{network}: waits in a step: only a GPU has any; checkpoint of" in done.stderr
    assert not measured
