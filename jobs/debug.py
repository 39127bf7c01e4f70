"""`--on debug`: the same command made small, in a folder that every start makes anew."""

import shutil
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import Any

from jobs.config import as_words, load
from shards.errors import UserError

BATCH = 8  # images a step at most, unless accumulation needs more: fits the 64 images that debug runs read
MARK = ".debug"  # a folder that holds it was made by --on debug, and the next start may delete it


def debug_words(module: ModuleType, path: Path | None, words: list[str]) -> list[str]:
    """The settings that make a run of this config small, to stand before the words of the command line.

    Raises UserError for mistakes in the config.
    """
    config: Any = load(module.Config, path, [*module.DEBUG, *words])
    train = getattr(config, "train", None)
    if train is None:
        return list(module.DEBUG)
    micro = max(2, BATCH // train.accumulation // 2 * 2)  # even, for mixup
    return [*module.DEBUG, f"train.batch={min(train.batch, micro * train.accumulation)}"]


def debug_settings(module: ModuleType, path: Path, settings: Mapping[str, Any]) -> dict[str, str]:
    """`debug_words` over settings that are not text yet, as a comparison's rows have them."""
    return dict(word.split("=", 1) for word in debug_words(module, path, as_words(settings)))


def fresh_folder(folder: Path) -> None:
    """Delete what the last debug run left in its folder, so that no old result is taken for a new one.

    Raises UserError when something else is there.
    """
    try:
        if folder.exists() and any(folder.iterdir()):
            if not (folder / MARK).is_file():
                raise UserError(f"{folder}: holds a run that --on debug did not make; choose another name=")
            shutil.rmtree(folder)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / MARK).touch()
    except OSError as error:
        raise UserError(f"{folder}: cannot be written ({error.strerror}); set runs_dir= to a folder that can") from None


def remove_folder(folder: Path) -> None:
    """Delete the folder of a debug run that a mistake ended, and those above it that it alone made."""
    if not (folder / MARK).is_file():
        return
    shutil.rmtree(folder, ignore_errors=True)
    with suppress(OSError):  # not empty: others' runs
        folder.parent.rmdir()
        folder.parent.parent.rmdir()
