"""Hyperparameter search: W&B's parameter distributions, and which trial comes next (grid, random, Bayesian).

A search keeps no state: the next trial is a pure function of the space, the seed and the trials so far, so whoever
lost its memory asks again and gets the same answer. Continuous parameters are searched as u in [0, 1] and mapped
through the distribution's inverse CDF, as W&B's own search does; so every distribution works with every method.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

Method = Literal["grid", "random", "bayes"]
# What a distribution needs, and what it takes beside that. q quantizes.
BOUNDED = ("uniform", "int_uniform", "log_uniform", "log_uniform_values", "inv_log_uniform", "inv_log_uniform_values")
NEEDS: dict[str, tuple[str, ...]] = {
    "constant": ("value",), "categorical": ("values",), **dict.fromkeys(BOUNDED, ("min", "max")),
    **dict.fromkeys(("q_uniform", "q_log_uniform", "q_log_uniform_values"), ("min", "max")),
    **dict.fromkeys(("normal", "q_normal", "log_normal", "q_log_normal", "beta", "q_beta"), ()),
}  # fmt: skip
STARTUP = 5  # random trials before the Bayesian search looks at results; with the usual 10, twelve trials learn nothing


@dataclass(frozen=True)
class Parameter:
    """One searched setting. `options`: min, max, q, mu, sigma, a, b, value, values, probabilities as W&B names them."""

    key: str
    distribution: str
    options: dict[str, Any]

    @property
    def choices(self) -> list[Any] | None:
        """The values it can take, in their order; None for a continuous one or one without bounds."""
        options = self.options
        if self.distribution == "constant":
            return [options["value"]]
        if self.distribution == "categorical":
            return list(options["values"])
        if self.distribution == "int_uniform":
            return list(range(options["min"], options["max"] + 1))
        if self.distribution == "q_uniform":
            q = options["q"]
            first, last = (round(options[end] / q) for end in ("min", "max"))
            return [_quantized(step * q, q) for step in range(first, last + 1)]
        return None

    @property
    def logarithmic(self) -> bool:
        """Whether a plot of it wants a logarithmic axis."""
        return "log" in self.distribution

    def value(self, u: float) -> Any:
        """The value at quantile u in [0, 1] of the distribution."""
        name, options = self.distribution, self.options
        if self.distribution in ("constant", "categorical"):
            choices, weights = self.choices or [], options.get("probabilities")
            shares = list(itertools.accumulate(weights or [1 / len(choices)] * len(choices)))
            return next((choice for choice, share in zip(choices, shares, strict=True) if u < share), choices[-1])
        if name == "int_uniform":
            return min(options["min"] + int(u * (options["max"] - options["min"] + 1)), options["max"])
        quantized = name.startswith("q_")
        value = self._continuous(name.removeprefix("q_"), u)
        return _quantized(value, options["q"]) if quantized else value

    def _continuous(self, name: str, u: float) -> float:
        options = self.options
        if name in ("normal", "log_normal", "beta"):
            from scipy import stats

            # The outermost quantiles are infinite.
            u = min(max(u, 1e-6), 1 - 1e-6)
            if name == "beta":
                return float(stats.beta.ppf(u, options["a"], options["b"]))
            value = float(stats.norm.ppf(u, options["mu"], options["sigma"]))
            return math.exp(value) if name == "log_normal" else value
        low, high = options["min"], options["max"]
        if name.endswith("_values"):
            low, high = (math.log(low), math.log(high)) if name.startswith("log") else (-math.log(high), -math.log(low))
        if name == "uniform":
            return low + u * (high - low)
        if name.startswith("log_uniform"):
            value = math.exp(low + u * (high - low))
        else:  # inv_log_uniform: log(1 / x) is uniform
            value = math.exp(-(high - u * (high - low)))
        if name.endswith("_values"):  # exp(log(x)) may lie a bit beside x
            value = min(max(value, options["min"]), options["max"])
        return value


@dataclass(frozen=True)
class Trial:
    """One point that was asked for. `units`: what the search thinks in, key -> u or a category's index; `values`: the
    settings; `score`: its metric, larger being better; None while it runs. `failed`: it ended without one."""

    number: int
    units: dict[str, float]
    values: dict[str, Any]
    score: float | None = None
    failed: bool = False


def ask(method: Method, space: Sequence[Parameter], seed: int, trials: Sequence[Trial]) -> Trial | None:
    """The next trial, None when a grid is exhausted.

    The same arguments give the same trial. Bayesian: tree-structured Parzen estimator (Bergstra et al. 2011, as in
    optuna, multivariate); a trial that still runs counts as a bad one there, so that parallel trials spread.
    """
    number = len(trials)
    if method == "grid":
        grid = itertools.islice(itertools.product(*(parameter.choices or [] for parameter in space)), number, None)
        point = next(grid, None)
        return (
            None
            if point is None
            else Trial(number, {}, dict(zip((parameter.key for parameter in space), point, strict=True)))
        )
    units = _suggest(method, space, seed, trials)
    values = {parameter.key: _value(parameter, units.get(parameter.key)) for parameter in space}
    return Trial(number, units, values)


def grid_size(space: Sequence[Parameter]) -> int:
    """How many trials a full grid has."""
    return math.prod(len(parameter.choices or []) for parameter in space)


def _value(parameter: Parameter, unit: float | None) -> Any:
    if parameter.distribution == "constant":
        return parameter.options["value"]
    if unit is None:
        raise ValueError(f"no coordinate for {parameter.key}")
    return parameter.options["values"][int(unit)] if _by_index(parameter) else parameter.value(unit)


def _by_index(parameter: Parameter) -> bool:
    """Categories without an order and without weights; with weights they are drawn through the CDF."""
    return parameter.distribution == "categorical" and "probabilities" not in parameter.options


def _suggest(method: str, space: Sequence[Parameter], seed: int, trials: Sequence[Trial]) -> dict[str, float]:
    import warnings

    import optuna
    from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
    from optuna.trial import TrialState, create_trial

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    axes: dict[str, BaseDistribution] = {}
    for parameter in space:
        if parameter.distribution != "constant":
            several = range(len(parameter.options["values"])) if _by_index(parameter) else None
            axes[parameter.key] = CategoricalDistribution(several) if several else FloatDistribution(0.0, 1.0)
    # Its own generator for every trial: what one draws does not depend on how often this process has drawn before.
    own_seed = (seed * 1_000_003 + len(trials)) % 2**32
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        sampler = (
            optuna.samplers.TPESampler(seed=own_seed, n_startup_trials=STARTUP, multivariate=True, constant_liar=True)
            if method == "bayes"
            else optuna.samplers.RandomSampler(seed=own_seed)
        )
        study = optuna.create_study(direction="maximize", sampler=sampler)
        for trial in trials if method == "bayes" else ():
            # Pruned rather than failed, which would be ignored: the search should keep away from there.
            state = TrialState.PRUNED if trial.failed else TrialState.COMPLETE
            if trial.score is None and not trial.failed:
                state = TrialState.RUNNING
            study.add_trial(create_trial(state=state, value=trial.score, params=trial.units, distributions=axes))
        return study.ask(axes).params


def _quantized(value: float, q: float) -> float | int:
    """The nearest multiple of q; an integer when q is one."""
    steps = round(value / q)
    # 3 * 0.1 is 0.30000000000000004: as many digits as q has.
    return steps * q if isinstance(q, int) else round(steps * q, 12)
