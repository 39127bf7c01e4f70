"""The size of a perturbation as people write it: 0.0157 or 4/255, on pixels in [0, 1]. Imports nothing heavy."""

import re
from fractions import Fraction
from typing import Literal

from shards.errors import UserError

LARGEST_L2 = 100.0  # beyond it an image of any usual size can become any other


def read_epsilon(value: float | str, norm: Literal["linf", "l2"] = "linf", key: str = "epsilon") -> float:
    """A perturbation's size from a number or a fraction such as '4/255'.

    Raises UserError, naming the setting `key`, for what is no number, and for sizes out of range: above 1 in the
    largest change of a pixel (linf), above 100 in Euclidean length (l2).
    """
    text = value.strip() if isinstance(value, str) else f"{value:g}"
    try:
        if not re.fullmatch(r"[0-9.]+(e[+-]?[0-9]+)?( */ *[0-9.]+)?", text):
            raise ValueError
        above, _, below = text.partition("/")
        size = value if isinstance(value, float) else float(Fraction(above.strip()) / Fraction(below.strip() or "1"))
    except (ValueError, ZeroDivisionError):
        raise UserError(f"{key}={text}: expected a number or a fraction, such as 0.0157 or 4/255") from None
    if norm == "linf" and size > 1:
        hint = f"; did you mean {text}/255?" if "/" not in text and size <= 255 else ""
        raise UserError(f"{key}={text}: pixels are in [0, 1] here, so the largest change is at most 1{hint}")
    if norm == "l2" and size > LARGEST_L2:
        raise UserError(
            f"{key}={text}: pixels are in [0, 1] here, and an l2 length above {LARGEST_L2:.0f} turns any image into "
            f"any other; did you mean {size / 255:.3g}?"
        )
    if size <= 0:
        raise UserError(f"{key}={text}: has to be above 0")
    return size


def shown_epsilon(size: float, norm: Literal["linf", "l2"]) -> str:
    """A size as people read it: in 255ths for linf (4/255), three digits for l2 (0.5)."""
    if norm == "l2":
        return f"{size:.3g}"
    return f"{size * 255:.3g}/255"
