"""fgvc find-lr: a learning rate for a classifier's config, by a range test.

    fgvc find-lr configs/classify/cub200_vit_b16.yaml                  from optim.lr / 100 to optim.lr * 1000, 100 steps
    fgvc find-lr CONFIG steps=200 low=1e-6 high=0.1 [key=value ...]    any setting of fgvc classify too

Begins as the run itself would (the same weights, the probe's head where train.head_start=probe), then multiplies the
rate from step to step until the loss rises. It suggests a tenth of that rate: optim.lr for a run with a warm-up. One
process; more images a step than fit: train.accumulation. Nothing held out is looked at. To read, in
<runs_dir>/find-lr/<name>/: find_lr.png, rates.json.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from annotated_types import Ge

from jobs.checks import check_files
from jobs.config import describe, load, load_job, locate
from jobs.hints import next_lines
from jobs.registry import default_name, task_module
from jobs.words import parse
from shards.errors import UserError
from shards.options import option


@dataclass
class Range:
    """What is tried."""

    steps: Annotated[int, Ge(10)] = option(100, "how many steps")
    low: Annotated[float, Ge(0)] = option(0.0, "first rate (0: optim.lr / 100)")
    high: Annotated[float, Ge(0)] = option(0.0, "last rate (0: optim.lr * 1000)")


def main(words: list[str]) -> int:
    """`fgvc find-lr WORDS`; the exit code. Raises UserError for a user's mistake."""
    arguments = parse("find-lr", words)
    if arguments.help:
        print(f"{(__doc__ or '').strip()}\n\nsettings (key: type = default):\n{describe(Range)}")
        return 0
    config, tried = read(arguments.words)
    if arguments.dry_run or arguments.print_config:
        print(f"{config.name}: {tried.steps} steps, rates {tried.low:g} to {tried.high:g}")
        return 0
    check_files(config)
    said, rate = task_module("find_lr").run(config, tried)
    print(said)
    print(next_lines("find-lr", rate=f"{rate:g}"))
    return 0


def read(words: list[str]) -> tuple[Any, Range]:
    """The run's config and what is tried. Raises UserError for a user's mistake."""
    own = set(Range.__dataclass_fields__)
    mine = [word for word in words if word.partition("=")[0] in own]
    others = [word for word in words if word.partition("=")[0] not in own]
    files = [word for word in others if "=" not in word]
    if len(files) != 1:
        raise UserError("find-lr takes one config of fgvc classify: fgvc find-lr configs/classify/NAME.yaml")
    path = locate(Path(files[0]), "classify")
    config = load_job("classify", path, [word for word in others if "=" in word])
    config.name = config.name or default_name("classify", path, config)
    tried = load(Range, None, mine)
    tried.low, tried.high = tried.low or config.optim.lr / 100, tried.high or config.optim.lr * 1000
    if tried.low >= tried.high:
        raise UserError(f"low={tried.low:g} high={tried.high:g}: the rate rises; set high above low")
    if config.train.method == "probe":
        raise UserError("train.method=probe: a probe has no learning rate; find one for finetune or lora")
    return config, tried
