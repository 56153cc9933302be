"""The Ray Serve application on this machine, where Ray is installed (the extra `ray`)."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.coder.serve.serving import PREFIX, SUFFIX, until

ray: Any = pytest.importorskip("ray", reason="no Ray. Remedy: pip install '.[ray]'")

ROOT = Path(__file__).parents[3]
PORT = 18_012
HOLE = {"prompt": PREFIX, "suffix": SUFFIX, "max_tokens": 8}


@pytest.fixture(scope="module")
def client(model_folder: Path) -> Iterator[httpx2.Client]:
    """A client of two replicas."""
    # A busy machine takes longer to start a process than Ray expects.
    waits = ("PROXY_READY_CHECK_TIMEOUT_S", "PROXY_HEALTH_CHECK_TIMEOUT_S")
    os.environ |= {f"RAY_SERVE_{name}": "60" for name in waits} | {"RAY_USAGE_STATS_ENABLED": "0"}
    from ray import serve

    from talaria.coder.serve.serve_ray import app

    runtime = {"env_vars": {"PYTHONPATH": f"{ROOT}:{os.environ.get('PYTHONPATH', '')}"}}
    ray.init(num_cpus=4, include_dashboard=False, runtime_env=runtime, logging_level="error")
    try:
        serve.start(http_options={"host": "127.0.0.1", "port": PORT})
        serve.run(app({"model": str(model_folder), "replicas": "2", "batch": "2"}))
        url = f"http://127.0.0.1:{PORT}"
        with httpx2.Client(base_url=url, timeout=60, trust_env=False) as client:
            until(lambda: client.get("/ready").status_code == 200)
            yield client
    finally:
        serve.shutdown()
        ray.shutdown()


def replicas() -> list[int]:
    """The processes of the replicas."""
    import psutil

    found = []
    for process in psutil.process_iter(["name", "cmdline"]):
        if "ServeReplica:default:Replica" in " ".join(process.info["cmdline"] or ()):
            found.append(process.pid)
    return found


def test_two_replicas(client: httpx2.Client) -> None:
    """Formats, errors and streams are those of one server."""
    assert client.post("/v1/completions", json=HOLE).status_code == 200
    assert client.post("/v1/completions", json={"prompt": 3}).status_code == 400
    body = {"input_prefix": PREFIX, "input_suffix": SUFFIX, "stream": True}
    with client.stream("POST", "/infill", json=body) as response:
        assert list(response.iter_lines())[-1] or response.status_code == 200
    assert client.get("/props").json()["total_slots"] == 2


def test_a_document_finds_its_replica_again(client: httpx2.Client) -> None:
    """So its context need not be read again."""
    named = {"X-Document": "a.py"}
    for _ in range(6):
        answer = client.post("/v1/completions", json=HOLE, headers=named).json()
    details = answer["usage"]["prompt_tokens_details"]
    assert details["cached_tokens"] == answer["usage"]["prompt_tokens"]


def test_a_killed_replica_loses_no_request(client: httpx2.Client) -> None:
    """Everybody who was admitted is answered by the other one."""
    begun = threading.Semaphore(0)

    def ask(number: int) -> int:
        begun.release()
        body = {**HOLE, "prompt": f"a = {number}\n"}
        return client.post("/v1/completions", json=body).status_code

    with ThreadPoolExecutor(6) as threads:
        asked = [threads.submit(ask, number) for number in range(60)]
        for _ in range(20):
            begun.acquire(timeout=60)
        os.kill(replicas()[0], signal.SIGKILL)
        statuses = [each.result(120) for each in asked]
    assert statuses == [200] * 60
