"""Build shards from a raw dataset: checked first, in parallel, resumable after a kill, final only as a whole."""

import contextlib
import errno
import re
import shutil
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from filelock import FileLock, Timeout

from shards.building.check import checked, first_few
from shards.building.config import BuildOptions
from shards.building.pack import WORK, ShardWork, read_sidecar, write_shard
from shards.building.plan import Plan, PlannedShard, difference, make_plan
from shards.building.pool import run
from shards.entries import Entries, Entry
from shards.errors import UserError
from shards.files import sync_folder
from shards.manifest import MANIFEST, Manifest, Shard, read_manifest, write_manifest
from shards.sample import RawDataset

LOCK = ".lock"
OURS = re.compile(
    r"(train|val|test)-\d{6}\.tar|\.?(manifest\.json|entries\.safetensors)(\.\d+)?\.tmp|entries\.safetensors"
)


class BuildRunning(UserError):
    """Another process builds in the same folder now."""


def build(raw: RawDataset, out: str | Path, options: BuildOptions | None = None) -> Manifest:
    """Shards of `raw` in the folder `out`; finished shards are not built again.

    Raises UserError in one line: invalid dataset, unusable images (all of them counted, nothing becomes final),
    another plan's shards in `out`, a full disk (finished shards stay for the next try). BuildRunning, a UserError
    too, while another process builds there.
    """
    out, options = Path(out), options or BuildOptions()
    raw = checked(raw, options)
    plan = make_plan(raw, options)
    if manifest := _existing(out, plan):
        return manifest
    try:
        with _locked(out):
            if manifest := _existing(out, plan):  # finished by another process since
                return manifest
            _sweep(out, plan)
            _write_shards(raw, out, options, plan)
            return _finalise(raw, out, plan)
    except OSError as error:
        raise _disk_error(error, out, plan) from error


def _existing(out: Path, plan: Plan) -> Manifest | None:
    """The finished shards in `out` when they are of this plan. Raises UserError when they are another plan's."""
    if not (out / MANIFEST).is_file():
        return None
    manifest = read_manifest(out)
    if manifest.plan != plan.hash:
        what = difference(manifest.asked, plan.asked)
        raise UserError(
            f"{out}: holds other shards: {what}; build into another folder (OUT, data.shards=) or delete this one"
        )
    for shard in manifest.shards:
        path = out / shard.name
        if not path.is_file() or path.stat().st_size != shard.size:
            raise UserError(f"{path}: missing or of the wrong size; delete {out} and build it again")
    print(f"{out}: already built ({len(manifest.entries)} images in {len(manifest.shards)} shards)", file=sys.stderr)
    return manifest


@contextlib.contextmanager
def _locked(out: Path) -> Iterator[None]:
    """Hold the folder's lock. Raises UserError when a build runs there or the folder holds something else."""
    if out.exists() and not out.is_dir():
        raise UserError(f"{out}: is a file; OUT is the folder for the shards")
    if out.is_dir() and not (out / WORK).is_dir():
        others = sorted(path.name for path in out.iterdir() if path.name != LOCK)
        if others:
            raise UserError(f"{out}: holds other files ({first_few(others)}); choose a new or empty folder")
    new = not out.exists()
    out.mkdir(parents=True, exist_ok=True)
    lock = FileLock(out / LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise BuildRunning(f"{out}: another build is running in this folder; wait for it or choose another") from None
    try:
        (out / WORK).mkdir(exist_ok=True)
        yield
    finally:
        _tidy(out)
        if not (out / WORK).exists():  # else the file stays: two builds must not hold two locks
            (out / LOCK).unlink(missing_ok=True)
        lock.release()
        if new and not any(out.iterdir()):
            out.rmdir()


def _tidy(out: Path) -> None:
    """After success or failure: keep the work folder only while it holds finished shards to resume from."""
    work = out / WORK
    if (out / MANIFEST).is_file() or not any(work.glob("*.json")):
        shutil.rmtree(work, ignore_errors=True)


def _sweep(out: Path, plan: Plan) -> None:
    """Remove what a killed build left half-written, and finished shards that are of no use to this plan."""
    useful = {WORK, LOCK}
    for planned in plan.shards:
        if read_sidecar(out, planned):
            useful |= {planned.name, f"{planned.name}.json"}
    for path in [*(out / WORK).iterdir(), *out.iterdir()]:
        ours = path.parent.name == WORK or OURS.fullmatch(path.name)
        if ours and path.name not in useful:
            path.unlink()


def _write_shards(raw: RawDataset, out: Path, options: BuildOptions, plan: Plan) -> None:
    """Write the shards that are not there yet, with their sidecars. Raises UserError naming unusable images."""
    todo = [planned for planned in plan.shards if read_sidecar(out, planned) is None]
    kept = len(plan.shards) - len(todo)
    if kept:
        print(f"{out}: resuming with {kept} of {len(plan.shards)} shards already finished", file=sys.stderr)
    work = [ShardWork(planned, out, raw.classes, raw.read, options) for planned in todo]
    total = sum(len(planned.samples) for planned in todo)
    found = run(write_shard, work, options.workers, total, f"build {raw.source}", ["webdataset.writer"])
    problems = [problem for shard in found for problem in shard]
    if options.broken:  # those of shards that an earlier start finished, too
        problems = [problem for planned in plan.shards for problem in _sidecar(out, planned).get("left_out", [])]
    if len(problems) > options.broken:
        raise UserError(
            f"{raw.source}: {len(problems)} of {len(raw.samples)} images cannot be used: {first_few(problems, 5)}; "
            f"fix or remove them and run the same command again (broken=N leaves out up to N; it is {options.broken})"
        )
    for problem in problems:
        print(f"{raw.source}: left out: {problem}", file=sys.stderr)


def _sidecar(out: Path, planned: PlannedShard) -> dict:
    sidecar = read_sidecar(out, planned)
    if sidecar is None:
        raise UserError(f"{out}: {planned.name} was changed or removed while building; run the same command again")
    return sidecar


def _finalise(raw: RawDataset, out: Path, plan: Plan) -> Manifest:
    """Move the shards to their place; the manifest comes last and makes them a set."""
    notes: Counter[str] = Counter()
    shards: list[Shard] = []
    digests: list[np.ndarray] = []

    def entries() -> Iterator[Entry]:
        """Of one sidecar at a time: all of them at once would take 2 KB a sample."""
        for planned in plan.shards:
            sidecar = _sidecar(out, planned)
            shard = Shard(**sidecar["shard"])
            if (out / WORK / shard.name).is_file():
                (out / WORK / shard.name).replace(out / shard.name)
            for entry in sidecar["entries"]:
                yield Entry(**(entry | {"shard": len(shards)}))
            shards.append(shard)
            digests.append(np.array([int(digest, 16) for digest in sidecar["digests"]], np.uint64))
            notes.update(sidecar["notes"])
            notes.update(f"left out: {problem}" for problem in sidecar.get("left_out", []))

    columns = Entries.of(entries())
    sync_folder(out)
    write_manifest(
        Manifest(
            folder=out,
            source=raw.source,
            licence=raw.licence,
            citation=raw.citation,
            classes=raw.classes,
            shards=tuple(shards),
            entries=columns,
            plan=plan.hash,
            notes=dict(sorted(notes.items())),
            extra=raw.extra,
            asked=plan.asked,
            duplicates=_groups(np.concatenate(digests)),
        )
    )
    sync_folder(out)
    return read_manifest(out)


def _groups(digests: np.ndarray) -> tuple[tuple[int, ...], ...]:
    """The positions of every digest that comes more than once, groups in the order in which they begin."""
    order = np.argsort(digests, kind="stable")
    edges = np.flatnonzero(np.diff(digests[order])) + 1
    starts, ends = np.append(0, edges), np.append(edges, len(order))
    several = np.flatnonzero(ends - starts > 1).tolist()
    return tuple(sorted(tuple(order[starts[at] : ends[at]].tolist()) for at in several))


def _disk_error(error: OSError, out: Path, plan: Plan) -> UserError:
    if error.errno not in (errno.ENOSPC, errno.EDQUOT):
        return UserError(f"{error.filename or out}: {error.strerror or error}")
    done = sum(path.stat().st_size for path in (out / WORK).glob("*.tar")) if out.is_dir() else 0
    where = next(folder for folder in (out, *out.parents) if folder.exists())
    free = shutil.disk_usage(where).free
    return UserError(
        f"{out}: the disk is full: about {max(plan.bytes - done, 0)} more bytes are needed, {free} are free; "
        "free some space and run the same command again; it resumes where it stopped"
    )
