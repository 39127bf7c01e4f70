"""timm's hub, asked once: a node without internet uses what is cached, or fails at once instead of after a minute."""

import difflib
from collections.abc import Iterator
from contextlib import contextmanager

import timm
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


def no_such_model(name: str) -> str:
    """What is said of a name that timm does not know, with those it may have meant."""
    stem, known = name.split(".")[0], timm.list_models()
    near = [model for model in known if model.startswith(stem)] or [model for model in known if stem in model]
    near = near or difflib.get_close_matches(stem, known)
    return f"{name}: timm has no such model" + (f"; did you mean {', '.join(near[:3])}?" if near else "")


def _answers() -> bool:
    try:
        get_session().head(constants.ENDPOINT, timeout=TIMEOUT_S)
    except Exception:  # of httpx and below it: no name, no route, a proxy's refusal, a time-out
        return False
    return True
