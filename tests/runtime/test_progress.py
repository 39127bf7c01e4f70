"""Progress of what is not training: a line now and then where there is no terminal."""

import time

import pytest

from fgvc.runtime.progress import with_progress


def test_lines_in_a_log_file(capsys: pytest.CaptureFixture) -> None:
    def slow() -> object:
        for number in range(6):
            time.sleep(0.05)
            yield number

    assert list(with_progress(slow(), 6, "features", "batches", show=True, seconds=0.12)) == list(range(6))
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("features 3/6 batches, ETA ")
    assert len(lines) == 2
    assert list(with_progress(range(3), 3, "features", "batches", show=True)) == [0, 1, 2]
    assert list(with_progress(slow(), 6, "features", "batches", show=False, seconds=0)) == list(range(6))
    assert capsys.readouterr().err == ""  # quickly done, or another rank's
