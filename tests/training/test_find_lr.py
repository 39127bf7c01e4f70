"""The range test on losses made by hand, and on a network that learns."""

import json
from pathlib import Path

import pytest

from fgvc.training.find_lr import range_test, rates_between
from jobs.cli import main
from shards.manifest import Manifest


def test_rates_rise_by_one_factor() -> None:
    assert rates_between(1e-4, 1.0, 5) == pytest.approx([1e-4, 1e-3, 1e-2, 1e-1, 1.0])


def test_the_limit_is_where_the_loss_stays_high() -> None:
    made: list[float] = []

    def loss(rate: float) -> float:  # falls from 2 to 1 at a rate of 0.01, then grows without bound
        made.append(rate)
        return 2.0 - min(1.0, rate / 0.01) if rate <= 0.1 else 1.0 + 20 * (rate - 0.1)

    found = range_test(rates_between(1e-4, 100.0, 301), loss)
    assert len(made) < 301  # it gave up early
    assert found.limit is not None
    # the average of ten steps lags behind: 1.25 times its lowest is passed a little after 0.1 + 0.25 / 20
    assert 0.11 < found.limit < 0.2
    assert found.suggested == pytest.approx(found.limit / 10, rel=0.05)


def test_a_loss_that_is_no_number_is_the_limit() -> None:
    rates = rates_between(1e-3, 10.0, 41)
    found = range_test(rates, lambda rate: 1.0 if rate < 0.5 else float("nan"))
    assert found.limit == next(rate for rate in rates if rate >= 0.5) == found.rates[-1]


def test_a_loss_that_never_rises() -> None:
    found = range_test(rates_between(1e-3, 10.0, 41), lambda rate: 1.0)
    assert found.limit is None
    assert found.suggested == 1.0


def test_the_command(guide: Manifest, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    config = tmp_path / "net.yaml"
    config.write_text("model: {name: test_resnet, weights: none}\nimage: {size: 32}\ntrain: {batch: 8}\n")
    words = ["find-lr", str(config), f"data.shards={guide.folder}", f"runs_dir={tmp_path}", "data.workers=0"]
    assert main([*words, "steps=25", "low=1e-3", "high=1000", "evaluate_test=false"]) == 0
    said = capsys.readouterr().out
    folder = tmp_path / "find-lr" / "net"
    found = json.loads((folder / "rates.json").read_text())
    assert f"suggested: optim.lr={found['suggested']:g} (now 0.01)" in said
    assert found["rates"][0] == pytest.approx(1e-3)
    assert len(found["losses"]) == len(found["rates"]) > 10
    assert (folder / "find_lr.png").stat().st_size > 5000
    assert main([*words, "low=1", "high=0.1"]) == 2
    assert "low=1 high=0.1: the rate rises" in capsys.readouterr().err
    assert main([*words, "train.method=probe"]) == 2
    assert "a probe has no learning rate" in capsys.readouterr().err
    assert main([*words, "step=3"]) == 2
    assert "step" in capsys.readouterr().err


def test_the_rates_are_the_settings_and_not_what_a_batch_makes_of_them(guide: Manifest, tmp_path: Path) -> None:
    config = tmp_path / "net.yaml"
    config.write_text("model: {name: test_resnet, weights: none}\nimage: {size: 32}\n")
    words = ["find-lr", str(config), f"data.shards={guide.folder}", "data.workers=0", "steps=10", "evaluate_test=false"]

    def losses(name: str, *more: str) -> list[float]:
        assert main([*words, f"runs_dir={tmp_path}", f"name={name}", *more]) == 0
        found: dict[str, list[float]] = json.loads((tmp_path / "find-lr" / name / "rates.json").read_text())
        return found["losses"]

    plain = losses("a", "train.batch=8", "low=0.004", "high=0.4")
    # SGD's rate is four times optim.lr with a batch four times the one that it is meant for
    assert losses("b", "train.batch=8", "optim.lr_batch=2", "low=0.001", "high=0.1") == pytest.approx(plain)


def test_a_probes_features_are_those_of_this_test(guide: Manifest, tmp_path: Path) -> None:
    config = tmp_path / "net.yaml"
    config.write_text("model: {name: test_resnet, weights: none}\ntrain: {batch: 8, head_start: probe}\n")
    words = ["find-lr", str(config), f"data.shards={guide.folder}", f"runs_dir={tmp_path}", "data.workers=0"]

    def losses(name: str, size: int) -> list[float]:
        assert main([*words, "steps=10", "evaluate_test=false", f"name={name}", f"image.size={size}"]) == 0
        found: dict[str, list[float]] = json.loads((tmp_path / "find-lr" / name / "rates.json").read_text())
        return found["losses"]

    losses("net", 64)
    assert losses("net", 32) == losses("alone", 32)
