"""Finds images with the same bytes, and splits a dataset by a seed so that these stay on one side."""

import hashlib
import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from shards.files import sha256_of
from shards.sources.problems import Problems


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
