"""A learning rate range test: the rate rises step by step until the loss does; a tenth of that rate is a good start.

Smith 2017 (https://arxiv.org/abs/1506.01186).
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from fgvc.runtime.figures import save_figure, subplots

SMOOTH = 0.9  # of the loss's moving average
RISES = 1.25  # so many times its lowest: the loss rises
GIVE_UP = 3.0  # so many times its lowest: no need to go on
BELOW = 10.0  # how far below the rate at which the loss rises


@dataclass(frozen=True)
class Found:
    """rates, losses: of every step made, the losses smoothed. limit: the rate at which the loss rises; None where it
    never did."""

    rates: list[float]
    losses: list[float]
    limit: float | None

    @property
    def suggested(self) -> float:
        """A tenth of the limit, or of the highest rate that was tried, to two digits."""
        return float(f"{(self.limit or self.rates[-1]) / BELOW:.1e}")


def rates_between(low: float, high: float, steps: int) -> list[float]:
    """`steps` rates from low to high, each the same factor above the one before."""
    return [low * (high / low) ** (step / (steps - 1)) for step in range(steps)]


def range_test(rates: Iterable[float], step: Callable[[float], float]) -> Found:
    """step: makes one step at a rate and returns its loss. Ends early once the loss has clearly risen."""
    made: list[float] = []
    smoothed: list[float] = []
    average, lowest = 0.0, math.inf
    for number, rate in enumerate(rates, 1):
        loss = step(rate)
        made.append(rate)
        average = SMOOTH * average + (1 - SMOOTH) * loss
        smoothed.append(average / (1 - SMOOTH**number))
        lowest = min(lowest, smoothed[-1])
        if not math.isfinite(loss) or smoothed[-1] > GIVE_UP * lowest:
            break
    return Found(made, smoothed, _limit(made, smoothed))


def _limit(rates: Sequence[float], losses: Sequence[float]) -> float | None:
    """The first rate after which the loss never comes back to near its lowest."""
    finite = [loss if math.isfinite(loss) else math.inf for loss in losses]
    least = min(finite)
    last_low = max(number for number, loss in enumerate(finite) if loss <= RISES * least)
    return rates[last_low + 1] if last_low + 1 < len(rates) else None


def plot_range_test(path: Path, found: Found) -> None:
    """The smoothed loss over the rate, with the suggested rate and the limit."""
    figure, axis = subplots(figsize=(6, 3.5))
    axis.plot(*zip(*_finite(found), strict=True))
    axis.axvline(found.suggested, color="tab:green", label=f"suggested: {found.suggested:g}")
    if found.limit is not None:
        axis.axvline(found.limit, color="tab:red", linestyle="--", label=f"the loss rises: {found.limit:.2g}")
    axis.set(xscale="log", xlabel="learning rate", ylabel="training loss, smoothed")
    axis.legend()
    save_figure(figure, path)


def _finite(found: Found) -> Iterator[tuple[float, float]]:
    return ((rate, loss) for rate, loss in zip(found.rates, found.losses, strict=True) if math.isfinite(loss))
