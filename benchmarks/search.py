"""Which search finds good settings in few trials: random, TPE, a Gaussian process; on a surface like fine-tuning's.

    python benchmarks/search.py --repeats 10 --trials 12 30

Accuracy over learning rate, weight decay, mixup and a category that shifts the best learning rate, with noise of 1.5
points a measurement. Printed: the true value at the point that each search would choose, its standard error, and the
seconds that asking for a trial takes.
"""

import argparse
import time
import warnings
from collections.abc import Callable

import numpy as np
import optuna
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.samplers import BaseSampler, GPSampler, RandomSampler, TPESampler

AXES = {
    "lr": FloatDistribution(0, 1), "decay": FloatDistribution(0, 1), "mixup": FloatDistribution(0, 1),
    "head": CategoricalDistribution(["a", "b", "c"]),
}  # fmt: skip
SHIFT, LOSS = {"a": 0.0, "b": 0.15, "c": -0.1}, {"a": 0.0, "b": 0.02, "c": 0.05}
SEARCHES: dict[str, Callable[[int], BaseSampler]] = {
    "random": lambda seed: RandomSampler(seed=seed),
    "TPE, 10 random first": lambda seed: TPESampler(seed=seed, n_startup_trials=10, multivariate=True),
    "TPE, 5 random first": lambda seed: TPESampler(seed=seed, n_startup_trials=5, multivariate=True),
    "GP, 5 random first": lambda seed: GPSampler(seed=seed, n_startup_trials=5),
}


def accuracy(point: dict) -> float:
    """The true accuracy at a point; at most 0.8."""
    away = point["lr"] - 0.62 - SHIFT[point["head"]]
    curved = 0.9 * away**2 + 0.25 * (point["decay"] - 0.4) ** 2 + 0.15 * (point["mixup"] - 0.2) ** 2
    return 0.8 - curved - LOSS[point["head"]]


def search(make: Callable[[int], BaseSampler], trials: int, seed: int) -> tuple[float, float]:
    """(true accuracy of the chosen point, seconds a question takes)."""
    noise, told, seconds = np.random.default_rng(seed), [], 0.0
    for number in range(trials):
        study = optuna.create_study(direction="maximize", sampler=make(seed * 1000 + number))
        study.add_trials(told)
        began = time.perf_counter()
        point = study.ask(AXES).params
        seconds += time.perf_counter() - began
        value = accuracy(point) + noise.normal(0, 0.015)
        told.append(optuna.trial.create_trial(params=point, distributions=AXES, value=value))
    return accuracy(max(told, key=lambda one: one.value).params), seconds / trials


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--trials", type=int, nargs="+", default=[12, 30])
    parser.add_argument("--only", default="", help="searches whose name contains this")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    for name, make in SEARCHES.items():
        if arguments.only not in name:
            continue
        for trials in arguments.trials:
            found, asking = zip(*(search(make, trials, seed) for seed in range(arguments.repeats)), strict=True)
            error = np.std(found) / np.sqrt(len(found))
            print(f"{name}, {trials} trials: {np.mean(found):.4f} +- {error:.4f}, {np.mean(asking):.3f} s a question")


if __name__ == "__main__":
    main()
