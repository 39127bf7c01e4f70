"""Whether what a pipeline's stages left is still of this pipeline: another config, other shards, older inputs."""

import io
from collections.abc import Sequence
from contextlib import redirect_stderr
from pathlib import Path

from fgvc.runtime.run_folder import RESULT
from jobs.config import DOWNLOAD
from jobs.detectors import refuse_other_settings
from jobs.experiments.pipeline_file import SHARDS, Planned, config_of
from jobs.shards import build_from, build_settings
from jobs.stale import on_other_shards
from jobs.states import read_object
from shards.boxes_layer import layer_hash
from shards.building.plan import asked_options, options_difference
from shards.errors import UserError
from shards.files import sha256_of
from shards.manifest import MANIFEST, read_manifest


def refuse_others(planned: Sequence[Planned]) -> None:
    """Raise UserError, before anything is started, where a stage's folder holds what another config, other shards or an
    earlier run of the stages before it gave."""
    known: dict[Path, str] = {}
    for one in planned:
        if one.job == SHARDS:
            _refuse_other_build(one)
        elif one.job != "report":
            config = config_of(one)
            refuse_other_settings(one.command.folder, config)
            if on_other_shards(one.command.folder, config, known):
                raise UserError(_stale(one, one.words[0], "the shards"))
            _refuse_stale(one)


def drop_old_reports(planned: Sequence[Planned]) -> None:
    """Delete reports that are older than what they show, so that they are made again."""
    stages = [one for one in planned if one.job != "report"]
    for one in planned:
        if one.job == "report" and not all(other.command.done and _written(other) <= _written(one) for other in stages):
            (one.command.folder / one.command.mark).unlink(missing_ok=True)


def _refuse_other_build(one: Planned) -> None:
    """Raise UserError where the shards that are there are of other pictures or settings."""
    _, _, source, root, out, *settings = one.words
    if not one.command.done:
        return
    settings = [word for word in settings if not word.startswith("track.")]
    # Not compared with archives that are downloaded: what is missing of them would be fetched again.
    if any(word.partition("=")[0].split(".")[-1] in DOWNLOAD for word in settings):
        asked = {"options": asked_options(build_settings(source, settings).build)}
        if changed := options_difference(read_manifest(Path(out)).asked, asked):
            raise UserError(
                f"{out}: holds other shards: {'; '.join(changed)}; set another data.shards= or delete this one"
            )
        return
    if root != "-" and not Path(root).exists():
        raise UserError(
            f"data.root={root}: no such folder, and {out} may hold other pictures; correct it, or use these shards as "
            "they are: data.source="
        )
    with redirect_stderr(io.StringIO()):
        build_from(source, root, out, settings)


def _refuse_stale(one: Planned) -> None:
    """Raise UserError for a result that was made of what another stage has made again since."""
    result = read_object(one.command.folder / RESULT)
    if not isinstance(result.get("inputs"), dict):
        return
    known = {*result["inputs"].values(), *result.get("detectors", ())}
    for path in one.reads:
        if not known & _hashes(path):
            raise UserError(_stale(one, one.words[0], str(path)))


def _stale(one: Planned, job: str, what: str) -> str:
    place = f"{one.command.folder} holds a run of {job} on another version of {what}"
    return f"stage {one.name}: {place}; delete that folder, or choose another name="


def _hashes(path: Path) -> set[str]:
    """What jobs call a file, a boxes layer, shards, or what they read of a run's folder, among their inputs."""
    if (path / MANIFEST).is_file():
        return {read_manifest(path).fingerprint}
    if (path / RESULT).is_file():
        return {sha256_of(file)[:16] for end in ("npz", "safetensors") for file in path.glob(f"*.{end}")}
    if not path.is_file():
        return set()
    return {sha256_of(path)[:16], *([layer_hash(path)] if path.suffix == ".jsonl" else [])}


def _written(one: Planned) -> float:
    file = one.command.folder / one.command.mark
    return file.stat().st_mtime if file.is_file() else 0.0
