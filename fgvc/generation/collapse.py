"""Whether a game is lost: judged by the record of the last steps alone, so that a resumed run judges the same."""

from collections.abc import Mapping, Sequence
from typing import Any

ALIKE = 0.1  # images of a batch differ by less than this share of what real ones do
RIGHT = 0.999  # the discriminator is right about more than this share, of real and of generated images


def collapsed(rows: Sequence[Mapping[str, Any]], steps: int) -> str:
    """What has gone wrong in all of the last `steps` steps, as users read it; empty where nothing has, or where there
    are fewer than twice as many: the first images of a run are all alike. rows: of metrics.jsonl, the last ones at
    least; some steps may be missing (track.every)."""
    rows = [row for row in rows if "diversity_generator" in row]
    if not steps or not rows or rows[-1]["step"] < 2 * steps:
        return ""
    recent = [row for row in rows if row["step"] > rows[-1]["step"] - steps]
    if max(row["diversity_generator"] for row in recent) < ALIKE:
        return (
            f"generated images were all alike for {steps} steps: they differ by "
            f"{_mean(recent, 'diversity_generator'):.0%} of what real ones do"
        )
    told = {name: _mean(recent, f"{name}_discriminator") for name in ("real", "generated")}
    falls = len(recent) > 1 and _mean(recent[len(recent) // 2 :], "diversity_generator") < _mean(
        recent[: len(recent) // 2], "diversity_generator"
    )
    if min(told.values()) > RIGHT and falls:
        return (
            f"for {steps} steps the discriminator was right about {told['real']:.1%} of real and "
            f"{told['generated']:.1%} of generated images, and these become more alike: it teaches nothing any more"
        )
    return ""


def _mean(rows: Sequence[Mapping[str, Any]], name: str) -> float:
    return sum(row[name] for row in rows) / len(rows)
