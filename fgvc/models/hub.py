"""timm's hub, asked once: a node without internet uses what is cached, or fails at once instead of after a minute."""

from collections.abc import Iterator
from contextlib import contextmanager

from huggingface_hub import constants, get_session

TIMEOUT_S = 10


@contextmanager
def one_try() -> Iterator[None]:
    """While entered, the hub is offline (cached files only) if it does not answer one request; nothing is retried."""
    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = before or not _answers()
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


def _answers() -> bool:
    try:
        get_session().head(constants.ENDPOINT, timeout=TIMEOUT_S)
    except Exception:  # of httpx and below it: no name, no route, a proxy's refusal, a time-out
        return False
    return True
