"""Hashes of what a job reads beside its shards, for its run's identity. Imports nothing heavy."""

from fgvc.detection.config import DetectorConfig
from shards.errors import UserError
from shards.files import sha256_of
from shards.paths import expand


def detector_inputs(model: DetectorConfig) -> dict[str, str]:
    """The hashes of the weights that a detector's training begins with, for a run's inputs."""
    weights = {"weights": file_hash(model.weights, "model.weights")}
    return weights | ({"start": file_hash(model.start, "model.start")} if model.start else {})


def file_hash(path: str, key: str) -> str:
    """Sixteen hex digits of a file's sha256; 'hub' and 'none' stand for themselves. Raises UserError naming `key`."""
    if path in ("hub", "none"):
        return path
    try:
        return sha256_of(expand(path, key))[:16]
    except OSError as error:
        raise UserError(f"{key}={path}: {error.strerror}") from None
