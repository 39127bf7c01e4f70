"""How a config field is declared: its default, its meaning, and whether it can change a result."""

from dataclasses import field
from typing import Any


def option(default: Any, help: str, affects_result: bool = True) -> Any:
    """A dataclass field with its meaning. Fields with affects_result=False stay outside the config's hash."""
    metadata = {"help": help, "affects_result": affects_result}
    if isinstance(default, list | dict):
        return field(default_factory=default.copy, metadata=metadata)
    return field(default=default, metadata=metadata)
