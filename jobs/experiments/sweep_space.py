"""The parameters of a sweep file: W&B's kinds and distributions, read into `Parameter`s, contradictions refused."""

import re
from pathlib import Path
from typing import Any

from fgvc.study.search import NEEDS, Parameter
from jobs.config import nearest
from shards.errors import UserError

OPTIONS = ("distribution", "value", "values", "probabilities", "min", "max", "q", "mu", "sigma", "a", "b", "parameters")


def read_parameters(file: Path, values: Any, method: str, prefix: str = "") -> list[Parameter]:
    """The parameters of a sweep file, nested ones under dotted keys, in the order of their names.

    Raises UserError for unknown or contradicting keys, values out of range, and a grid over a continuous range.
    """
    if not isinstance(values, dict) or not values:
        raise UserError(f"{file}: {prefix}parameters is missing: {{optim.lr: {{values: [0.01, 0.1]}}}}")
    found = []
    for key, options in sorted(values.items()):
        where = f"{file}: {prefix}{key}"
        if not isinstance(options, dict):
            raise UserError(f"{where}: {{value: ...}}, {{values: [...]}} or {{min: ..., max: ...}} is expected")
        for option in options:
            if option not in OPTIONS:
                raise UserError(f"{where}: unknown key '{option}'{nearest(str(option), list(OPTIONS))}")
        if "parameters" in options:
            if len(options) > 1:
                raise UserError(
                    f"{where}: nested parameters stand alone, but found also {_others(options, ['parameters'])}"
                )
            found += read_parameters(file, options["parameters"], method, f"{prefix}{key}.")
        else:
            found.append(_parameter(where, f"{prefix}{key}", options, method))
    return found


def _parameter(where: str, key: str, given: dict[str, Any], method: str) -> Parameter:
    options = dict(given)
    name = options.pop("distribution", None) or _inferred(where, options)
    name = "categorical" if name == "categorical_w_probabilities" else name
    if name not in NEEDS:
        raise UserError(f"{where}: unknown distribution '{name}'{nearest(str(name), list(NEEDS))}")
    allowed = set(NEEDS[name])
    if name == "categorical":
        allowed.add("probabilities")
    if name.startswith("q_"):
        allowed.add("q")
        options.setdefault("q", 1.0)
    if name.endswith("normal"):
        allowed |= {"mu", "sigma"}
        options = {"mu": 0.0, "sigma": 1.0} | options
    if name.endswith("beta"):
        allowed |= {"a", "b"}
        options = {"a": 1.0, "b": 1.0} | options
    for option in NEEDS[name]:
        if option not in options:
            raise UserError(f"{where}: distribution {name} needs {option}")
    if extra := [option for option in options if option not in allowed]:
        raise UserError(
            f"{where}: {extra[0]} contradicts distribution {name}, which takes {', '.join(sorted(allowed))}"
        )
    _check_numbers(where, name, options, method)
    parameter = Parameter(key, name, options)
    if method == "grid" and parameter.choices is None:
        raise UserError(f"{where}: a grid over {name} is endless; give values, integer min and max, or q_uniform")
    return parameter


def _inferred(where: str, options: dict[str, Any]) -> str:
    """The distribution that W&B assumes when none is named."""
    if "value" in options and "values" not in options:
        return "constant"
    if "values" in options:
        return "categorical"
    if "min" in options and "max" in options:
        whole = all(isinstance(options[end], int) for end in ("min", "max"))
        return "int_uniform" if whole else "uniform"
    raise UserError(f"{where}: expected value, values, or min and max, found {', '.join(options) or 'nothing'}")


def _check_numbers(where: str, name: str, options: dict[str, Any], method: str) -> None:
    for option in ("min", "max", "q", "mu", "sigma", "a", "b"):
        value = options.get(option)
        if value is not None and not is_number(value):
            hint = f"; in YAML it needs a dot: {_dotted(value)}" if _dotted(value) else ""
            raise UserError(f"{where}: {option}={value!r} is not a number{hint}")
    if name == "categorical":
        values, weights = options["values"], options.get("probabilities")
        if not isinstance(values, list) or not values:
            raise UserError(f"{where}: values={values!r}: expected a list")
        if weights is not None:
            if not isinstance(weights, list) or len(weights) != len(values) or not all(map(is_number, weights)):
                raise UserError(
                    f"{where}: probabilities={weights!r}: expected one number for each of {len(values)} values"
                )
            if min(weights) < 0 or abs(sum(weights) - 1) > 1e-6:
                raise UserError(f"{where}: probabilities add up to {sum(weights):g}, not 1")
            if method != "random":
                raise UserError(f"{where}: probabilities are for method: random, this sweep is {method}")
    low, high = options.get("min"), options.get("max")
    if low is not None and high is not None:
        if low >= high:
            raise UserError(f"{where}: min={low:g} is not below max={high:g}")
        if name.endswith("log_uniform_values") and low <= 0:
            raise UserError(f"{where}: min={low:g}: {name} needs a min above 0")
        if name in ("log_uniform", "q_log_uniform") and low > 0 and high <= 1:
            raise UserError(
                f"{where}: {name}'s limits are exponents: exp({low:g}) to exp({high:g}); for values from {low:g} "
                f"to {high:g} use {name}_values"
            )
        if name == "int_uniform" and not all(isinstance(end, int) for end in (low, high)):
            raise UserError(f"{where}: int_uniform needs integer min and max, found {low} and {high}")
    for option in ("q", "sigma", "a", "b"):
        if option in options and options[option] <= 0:
            raise UserError(f"{where}: {option}={options[option]:g} is not above 0")


def is_number(value: Any) -> bool:
    """Whether a value is a number (in YAML, true is none)."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def _dotted(value: Any) -> str:
    """1e-5 as YAML 1.1 wants it, 1.0e-5; empty for what is no number at all."""
    match = re.fullmatch(r"([+-]?\d+)([eE][+-]?\d+)", str(value))
    return f"{match[1]}.0{match[2]}" if match else ""


def _others(options: dict[str, Any], known: list[str]) -> str:
    return ", ".join(option for option in options if option not in known)
