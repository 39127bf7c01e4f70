"""Decodes images while a raw dataset is refused anyway, so that the damaged ones are named in the same run."""

from pathlib import Path

from shards.building.encode import ImageError, normalise
from shards.building.pool import run, tick
from shards.sources.problems import Problems

MOST = 20_000  # images decoded: a refusal should not take as long as a build
CHUNK = 256


def note_undecodable(root: Path, paths: list[str], problems: Problems) -> None:
    """Note images below `root` that are damaged or not images at all; of very many only the first ones are tried."""
    tried = paths[:MOST]
    chunks = [[root / path for path in tried[at : at + CHUNK]] for at in range(0, len(tried), CHUNK)]
    reported = {where.rpartition(" (")[0] for where in problems.found.get("unreadable file", [])}
    for found in run(_undecodable, chunks, 0, len(tried), "check the images"):
        for path, reason in found:
            name = path.relative_to(root).as_posix()
            if name not in reported:
                problems.add("image that cannot be used", f"{name} ({reason})")


def _undecodable(paths: list[Path]) -> list[tuple[Path, str]]:
    found = []
    for path in paths:
        try:
            normalise(path.read_bytes())
        except ImageError as error:
            found.append((path, str(error)))
        except OSError as error:
            found.append((path, error.strerror or str(error)))
        tick()
    return found
