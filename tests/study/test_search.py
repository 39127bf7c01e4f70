"""Search: distributions against scipy and W&B's definitions, grids, and that the next trial is a pure function."""

import itertools
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from fgvc.study.search import Parameter, Trial, ask, grid_size
from fgvc.study.search_report import plot, table

SPACE = (
    Parameter("lr", "log_uniform_values", {"min": 1e-4, "max": 1e-1}),
    Parameter("mix", "categorical", {"values": [0.0, 0.2, "off"]}),
    Parameter("warm", "int_uniform", {"min": 0, "max": 3}),
)


@pytest.mark.parametrize(
    ("name", "options", "reference"),
    [
        ("uniform", {"min": -1.0, "max": 3.0}, stats.uniform(-1, 4)),
        ("log_uniform_values", {"min": 1e-5, "max": 1e-1}, stats.loguniform(1e-5, 1e-1)),
        ("log_uniform", {"min": -3.0, "max": 2.0}, stats.loguniform(math.exp(-3), math.exp(2))),
        ("normal", {"mu": 2.0, "sigma": 0.5}, stats.norm(2, 0.5)),
        ("log_normal", {"mu": -1.0, "sigma": 0.5}, stats.lognorm(s=0.5, scale=math.exp(-1))),
        ("beta", {"a": 2.0, "b": 5.0}, stats.beta(2, 5)),
    ],
)
def test_quantiles_are_scipys(name, options, reference):
    parameter = Parameter("x", name, options)
    for u in (0.01, 0.25, 0.5, 0.8, 0.99):
        assert parameter.value(u) == pytest.approx(float(reference.ppf(u)), rel=1e-9)
    # Quantized: the nearest multiple of q, as W&B rounds.
    if name != "log_uniform":
        quantized = Parameter("x", f"q_{name}", options | {"q": 0.25})
        for u in (0.1, 0.6, 0.9):
            assert quantized.value(u) == pytest.approx(round(float(reference.ppf(u)) / 0.25) * 0.25)


def test_inverse_log_uniform_is_log_uniform_in_the_reciprocal():
    by_value = Parameter("x", "inv_log_uniform_values", {"min": 0.01, "max": 1.0})
    by_exponent = Parameter("x", "inv_log_uniform", {"min": 0.0, "max": math.log(100)})
    for u in (0.0, 0.3, 0.5, 1.0):
        assert by_value.value(u) == pytest.approx(by_exponent.value(u))
        assert math.log(1 / by_value.value(u)) == pytest.approx((1 - u) * math.log(100))


def test_values_stay_within_their_bounds_and_whole_numbers_stay_whole():
    lr = Parameter("x", "log_uniform_values", {"min": 0.001, "max": 0.03})
    assert all(0.001 <= lr.value(u) <= 0.03 for u in (0.0, 1e-16, 1.0))
    whole = Parameter("x", "int_uniform", {"min": 2, "max": 5})
    drawn = [whole.value(u) for u in np.linspace(0, 1, 4001)]
    assert [drawn.count(value) for value in (2, 3, 4, 5)] == pytest.approx([1000] * 4, abs=2)
    assert all(isinstance(value, int) for value in drawn)
    assert isinstance(Parameter("x", "q_uniform", {"min": 0, "max": 64, "q": 8}).value(0.4), int)
    assert Parameter("x", "q_uniform", {"min": 0, "max": 0.3, "q": 0.1}).choices == [0.0, 0.1, 0.2, 0.3]
    weighted = Parameter("x", "categorical", {"values": ["a", "b"], "probabilities": [0.9, 0.1]})
    assert [weighted.value(u) for u in (0.0, 0.89, 0.91, 1.0)] == ["a", "a", "b", "b"]


def test_a_grid_is_the_product_once_through():
    space = (SPACE[1], SPACE[2], Parameter("seed", "constant", {"value": 7}))
    trials: list[Trial] = []
    while (trial := ask("grid", space, 0, trials)) is not None:
        trials.append(trial)
    points = [tuple(trial.values.values()) for trial in trials]
    assert points == list(itertools.product([0.0, 0.2, "off"], [0, 1, 2, 3], [7]))
    assert grid_size(space) == len(points) == 12


@pytest.mark.parametrize("method", ["random", "bayes"])
def test_the_next_trial_hangs_on_nothing_but_what_is_written_down(method):
    def course(forget: bool) -> list[Trial]:
        trials: list[Trial] = []
        for number in range(9):
            trial = ask(method, SPACE, 3, trials)
            if forget:  # asked a second time, as after a kill before it was written down
                assert ask(method, SPACE, 3, trials) == trial
            trials.append(replace(trial, score=-abs(trial.units["lr"] - 0.3), failed=False))
            assert trial.number == number
        return trials

    assert course(False) == course(True)
    other = ask(method, SPACE, 4, [])
    assert other is not None
    assert other.values != course(False)[0].values


def test_bayes_learns_from_scores_and_keeps_away_from_failures_and_running_trials():
    def last(count: int, target: float, seed: int) -> list[float]:
        trials: list[Trial] = []
        for _ in range(count):
            trial = ask("bayes", SPACE[:1], seed, trials)
            trials.append(replace(trial, score=-abs(trial.units["lr"] - target)))
        return [trial.units["lr"] for trial in trials[count // 2 :]]

    for target in (0.15, 0.85):
        near = np.mean([abs(u - target) for seed in range(4) for u in last(24, target, seed)])
        far = np.mean([abs(u - target) for seed in range(4) for u in np.random.default_rng(seed).random(12)])
        assert near < 0.5 * far
    # Scores rise towards 0.5, beyond which everything failed: not forgotten, or the search would go there.
    axis = (Parameter("lr", "uniform", {"min": 0.0, "max": 1.0}),)
    good = [Trial(i, {"lr": (i + 0.5) / 16}, {}, 0.5 + 0.01 * i) for i in range(8)]
    bad = [Trial(8 + i, {"lr": (8 + i + 0.5) / 16}, {}, None, True) for i in range(8)]
    assert np.mean([ask("bayes", axis, seed, good + bad).units["lr"] < 0.5 for seed in range(20)]) > 0.8
    assert np.mean([ask("bayes", axis, seed, good).units["lr"] < 0.5 for seed in range(20)]) < 0.2
    # Three that run at once are not the same point.
    finished = [replace(ask("bayes", SPACE, 0, []), number=i, units={"lr": i / 8, "mix": 0, "warm": 0.5}, score=i / 8)
            for i in range(8)]  # fmt: skip
    running = list(finished)
    for _ in range(3):
        running.append(ask("bayes", SPACE, 0, running))
    assert len({round(trial.units["lr"], 6) for trial in running[8:]}) == 3


def test_table_is_best_first_and_the_plot_has_a_panel_for_each_parameter(tmp_path: Path):
    trials = [
        Trial(0, {}, {"lr": 0.0123456, "mix": 0.0}, -0.5), Trial(1, {}, {"lr": 0.001, "mix": "off"}, -0.25),
        Trial(2, {}, {"lr": 0.1, "mix": 0.2}, None, True), Trial(3, {}, {"lr": 0.05, "mix": 0.2}),
    ]  # fmt: skip
    lines = table(trials, {i: f"t{i}" for i in range(4)}, "val_ece", -1.0).splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert cells[0] == ["trial", "val_ece", "lr", "mix"]
    assert cells[2:] == [
        ["t1", "0.2500", "0.001", "off"], ["t0", "0.5000", "0.01235", "0"],
        ["t2", "failed", "0.1", "0.2"], ["t3", "-", "0.05", "0.2"],
    ]  # fmt: skip
    plot(tmp_path / "sweep.png", SPACE[:2], trials, "val_ece", -1.0, "title")
    assert (tmp_path / "sweep.png").stat().st_size > 8000
