"""Finds images with the same bytes, and splits a dataset by a seed so that these stay on one side."""

import hashlib
import logging
import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from shards.files import sha256_of
from shards.sources.problems import Problems, printable

logger = logging.getLogger(__name__)


def find_duplicates(root: Path, paths: Sequence[str], problems: Problems) -> list[list[str]]:
    """Groups of at least two images whose files hold the same bytes. Only files of equal size are read.

    Files that cannot be read (dangling links, permissions) are noted as problems.
    """
    by_size: dict[int, list[str]] = defaultdict(list)
    for path in paths:
        try:
            by_size[(root / path).stat().st_size].append(path)
        except OSError as error:
            problems.add("unreadable file", f"{path} ({error.strerror})")
    by_digest: dict[str, list[str]] = defaultdict(list)
    for path in (path for group in by_size.values() if len(group) > 1 for path in group):
        try:
            by_digest[sha256_of(root / path)].append(path)
        except OSError as error:
            problems.add("unreadable file", f"{path} ({error.strerror})")
    return [group for group in by_digest.values() if len(group) > 1]


def seeded_split(
    class_of: Mapping[str, str], duplicates: Sequence[Sequence[str]], test_fraction: float, seed: int
) -> dict[str, str]:
    """Image -> "train" or "test": stratified by class, a group of duplicates on one side.

    Every class gives `test_fraction` of its images, rounded, at least one and never its last. The order in which images
    are drawn is a hash of (seed, path), so that it is the same on any machine and an added image moves few others.
    """
    sizes = Counter(class_of.values())
    quota = {name: _share(size, test_fraction) for name, size in sizes.items()}
    grouped = {path for group in duplicates for path in group}
    groups = [list(group) for group in duplicates] + [[path] for path in class_of if path not in grouped]
    groups.sort(key=lambda group: hashlib.sha256(f"{seed}:{min(group)}".encode("utf-8", "surrogateescape")).digest())

    taken: Counter[str] = Counter()
    split = {}
    for group in groups:
        counts = Counter(class_of[path] for path in group)
        test = all(taken[name] + count <= quota[name] for name, count in counts.items())
        if test:
            taken += counts
        split.update(dict.fromkeys(group, "test" if test else "train"))
    return split


def _share(size: int, fraction: float) -> int:
    if fraction == 0 or size < 2:
        return 0
    return min(max(math.floor(size * fraction + 0.5), 1), size - 1)


def warn_of_duplicates(
    root: Path, duplicates: Sequence[Sequence[str]], class_of: Mapping[str, str], split_of: Mapping[str, str]
) -> dict[str, int]:
    """Warn of images that have two labels or leak from train to test; return the counts for the manifest."""
    across_classes = [group for group in duplicates if len({class_of[path] for path in group}) > 1]
    across_splits = [group for group in duplicates if len({split_of[path] for path in group}) > 1]
    for groups, where, why in (
        (across_classes, "different classes", "one of the labels is wrong"),
        (across_splits, "different splits", "training sees what it is tested on"),
    ):
        if groups:
            first = " = ".join(groups[0])
            count = f"{len(groups)} {'image is' if len(groups) == 1 else 'images are'}"
            logger.warning(printable(f"{root}: {count} in {where} at once ({why}), first: {first}"))
    return {
        "superfluous_files": sum(len(group) - 1 for group in duplicates),
        "across_classes": len(across_classes),
        "across_splits": len(across_splits),
    }


def hint_without_test(root: Path, splits: set[str]) -> None:
    """Say what to do with a dataset that has train and val alone, as many come."""
    if splits == {"train", "val"}:
        logger.warning(printable(f"{root}: train and val, no test; runs measure on val with data.test_split=val"))
