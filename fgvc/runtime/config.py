"""Config of tracking. Imports nothing heavy."""

from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Gt

from shards.options import option


@dataclass
class TrackConfig:
    """Weights & Biases; metrics.jsonl is always written."""

    wandb: Literal["auto", "online", "offline", "disabled"] = option(
        "auto", "auto: online with a key, else offline", affects_result=False
    )
    project: str = option("fgvc", "W&B project", False)
    group: str = option("", "W&B group, e.g. one pipeline", False)
    tags: list[str] = option([], "W&B tags", False)
    artifacts: Literal["off", "record", "model"] = option(
        "record", "lineage as W&B artifacts: none | result.json, a few kilobytes | model.safetensors too", False
    )
    every: Annotated[int, Gt(0)] = option(1, "log every so many steps, and at every epoch's end", False)
