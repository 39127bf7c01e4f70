"""Figures as a page shows them: each knows where in a run's JSON it stands, or from what it was worked out."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

Path = tuple[str | int, ...]  # keys and places from the top of a result.json down to a value


def percent(value: float) -> str:
    """0.8078 -> 80.8 %."""
    return f"{100 * value:.1f}\u00a0%"


def points(value: float) -> str:
    """A difference of shares, with its sign: 0.021 -> +2.1."""
    return f"{100 * value:+.1f}"


def bare_percent(value: float) -> str:
    """A bound of an interval whose unit stands elsewhere."""
    return f"{100 * value:.1f}"


def decimal(value: float) -> str:
    """Three places."""
    return f"{value:.3f}"


def distance(value: float) -> str:
    """One place."""
    return f"{value:,.1f}"


def count(value: float) -> str:
    """1389 -> 1,389."""
    return f"{value:,.0f}"


def millions(value: float) -> str:
    """25557032 -> 25.6 M."""
    return f"{value / 1e6:.1f}\u00a0M"


def duration(value: float) -> str:
    """Seconds as people say them."""
    minutes, seconds = divmod(round(value), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}\u00a0h {minutes:02d}\u00a0min"
    return f"{minutes}\u00a0min {seconds:02d}\u00a0s" if minutes else f"{value:.1f}\u00a0s"


def of_255(value: float) -> str:
    """A perturbation of pixels in [0, 1] as people write it: 0.0157 -> 4.0/255."""
    return f"{255 * value:.1f}/255"


FORMS: dict[str, Callable[[float], str]] = {
    form.__name__: form
    for form in (percent, points, bare_percent, decimal, distance, count, millions, duration, of_255)
}  # fmt: skip


@dataclass(frozen=True)
class Number:
    """A value of a run's result.json. run: the run's key; form: its name in FORMS."""

    run: str
    path: Path
    value: float
    form: str

    @property
    def text(self) -> str:
        return FORMS[self.form](self.value)


@dataclass(frozen=True)
class Derived:
    """A value that no JSON holds. made_from: what it was worked out from, in words. run: whose record to look at."""

    text: str
    value: float
    made_from: str
    run: str = ""


def value_at(tree: Any, path: Path) -> Any:
    """What stands at a path of plain values; None where nothing does."""
    for step in path:
        if isinstance(tree, dict):
            tree = tree.get(step)
        elif isinstance(tree, list) and isinstance(step, int) and step < len(tree):
            tree = tree[step]
        else:
            return None
    return tree


def is_number(value: Any) -> bool:
    """Whether a page can show it: finite, and not a truth value."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
