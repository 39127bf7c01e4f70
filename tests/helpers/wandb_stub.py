"""As much of W&B's server as a sweep agent asks for: who is there, the sweep, an agent, and the trials to run; and as
a run with artifacts asks for.

It is no W&B: it chooses nothing and keeps nothing. The agent and the runs that talk to it are the real ones.
"""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import yaml


@contextmanager
def serve(config: dict[str, Any], trials: list[dict[str, Any]]) -> Iterator[tuple[dict[str, str], list[dict]]]:
    """Serve the sweep `abcd1234` of me/birds, whose trials are run-0, run-1, ...; yields (environment of a client, run
    states that agents reported)."""
    waiting = [
        {"type": "run", "run_id": f"run-{i}", "program": config.get("program"),
         "args": {key: {"value": value} for key, value in one.items()} | {"_wandb": {"value": {"t": 1}}}}
        for i, one in enumerate(trials)
    ]  # fmt: skip
    reported: list[dict] = []

    def answer(query: str, variables: dict[str, Any]) -> dict[str, Any]:
        if "viewer" in query:
            me = {"id": "1", "entity": "me", "username": "me", "email": "me@example.org", "flags": "{}"}
            return {"viewer": me | {"teams": {"edges": []}}}
        if "createAgent" in query:
            return {"createAgent": {"agent": {"id": "agent-1"}}}
        if "agentHeartbeat" in query:
            states = json.loads(variables.get("runState") or "{}")
            reported.append(states)
            commands = [] if states else [waiting.pop(0)] if waiting else [{"type": "exit"}]
            return {"agentHeartbeat": {"agent": {"id": "agent-1"}, "commands": json.dumps(commands)}}
        sweep = {
            "id": "1", "name": "abcd1234", "method": config["method"], "state": "RUNNING", "description": None,
            "displayName": None, "config": yaml.safe_dump(config),
            "createdAt": "2026-01-01T00:00:00", "bestLoss": None,
            "heartbeatAt": None, "updatedAt": None, "earlyStopJobRunning": False, "controller": None, "scheduler": None,
            "runCount": 0, "runCountExpected": len(trials), "priorRuns": {"edges": []}, "runs": {"edges": []},
            "user": {"id": "1"},
        }  # fmt: skip
        return {"project": {"sweep": sweep}}

    with _serving(answer) as environment:
        yield environment, reported


@contextmanager
def serve_run() -> Iterator[tuple[dict[str, str], list[tuple[str, str]]]]:
    """Serve a run that logs artifacts; yields (environment of a client, what it did: ("CreateArtifact", its name) and
    ("UseArtifact", its name)). No artifact is there beforehand, and none can be read back."""
    done: list[tuple[str, str]] = []

    def answer(query: str, variables: dict[str, Any]) -> dict[str, Any]:
        if "viewer" in query:
            me = {"id": "1", "entity": "me", "username": "me", "email": "me@example.org", "flags": "{}"}
            return {"viewer": me | {"teams": {"edges": []}}}
        if "upsertBucket" in query:
            project = {"id": "1", "name": variables["project"], "entity": {"id": "1", "name": "me"}}
            bucket = {"id": "1", "name": variables["name"], "displayName": "a", "config": "{}", "historyLineCount": 0}
            return {"upsertBucket": {"bucket": bucket | {"project": project}, "inserted": True}}
        if "mutation CreateRunFiles" in query:
            return {"createRunFiles": {"runID": "1", "uploadHeaders": [], "files": []}}
        if "query ArtifactMembershipByName" in query:
            return {"project": {"artifactCollectionMembership": None}}
        if "query ArtifactType" in query:
            return {"project": {"artifact": None}}
        if "mutation CreateArtifact" in query:
            name = variables["input"]["artifactCollectionName"]
            done.append(("CreateArtifact", name))
            artifact = {"id": name, "state": "COMMITTED", "artifactSequence": {"latestArtifact": None}}
            return {"createArtifact": {"artifact": artifact}}
        if "mutation UseArtifact" in query:
            done.append(("UseArtifact", variables["input"]["artifactID"]))
        return {}

    with _serving(answer) as environment:
        yield environment, done


@contextmanager
def _serving(answer: Callable[[str, dict[str, Any]], dict[str, Any]]) -> Iterator[dict[str, str]]:
    """Serve what `answer` says to (query, variables); yields the environment of a client."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            try:
                asked = json.loads(body)
                reply = {"data": answer(asked["query"], asked.get("variables") or {})}
            except (ValueError, KeyError):
                reply = {}
            data = json.dumps(reply).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        url = f"http://127.0.0.1:{server.server_address[1]}"
        yield {"WANDB_BASE_URL": url, "WANDB_API_KEY": "0123456789" * 4, "WANDB_MODE": "online"}
    finally:
        server.shutdown()
