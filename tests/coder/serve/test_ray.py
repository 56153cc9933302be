"""The Ray Serve application on this machine, where Ray is installed (the extra `ray`)."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import pytest

from talaria.coder.checkpoint import Checkpoint
from talaria.coder.errors import CheckpointError
from talaria.coder.serve.desk import About, Limits
from talaria.coder.serve.exchange import Refusal
from tests.coder.serve.serving import PATIENCE, PREFIX, SUFFIX, until

ray: Any = pytest.importorskip("ray", reason="no Ray. Remedy: pip install '.[ray]'")

# Ray declares its settings as pydantic no longer likes it.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:ray")

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


class Remote:
    """A handle of replicas whose `about` gives these, one after another."""

    def __init__(self, *found: object) -> None:
        self.found, self.about = iter(found), self

    async def remote(self) -> object:
        """What the next replica says."""
        return next(self.found)


def test_a_model_that_no_replica_can_load_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    """The front says why, until a replica has it."""
    from talaria.coder.serve import serve_ray

    monkeypatch.setattr(serve_ray, "RETRY", 0)
    about = About("tiny", 2048, 64, 1)
    desk = serve_ray.RemoteDesk(Remote(Refusal("no model: x: not found"), about), Limits())
    with pytest.raises(Refusal, match="Loading model"):
        _ = desk.about

    async def learn() -> None:
        learning = asyncio.ensure_future(desk.learn())
        while desk.failure is None:
            await asyncio.sleep(0)
        assert not desk.ready
        with pytest.raises(Refusal, match="x: not found"):
            _ = desk.about
        await learning

    asyncio.run(learn())
    assert desk.about == about


def test_a_caller_that_gives_up_does_not_end_the_loading(model: Checkpoint) -> None:
    """The next one gets the model; one that cannot be loaded is said to those who ask."""
    from talaria.coder.serve import serve_ray

    def load(*_: object) -> Checkpoint:
        assert opened.wait(PATIENCE)
        return model

    async def ask(replica: Any) -> object:
        waiting = asyncio.ensure_future(replica.about())
        await asyncio.sleep(0.01)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        opened.set()
        return await replica.about()

    def fail(*_: object) -> Checkpoint:
        raise CheckpointError("x: not found")

    opened = threading.Event()
    for loading, said in ((load, "About("), (fail, "x: not found")):
        opened.clear()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(serve_ray, "load", loading)
            replica = serve_ray.Replica(None, "cpu", 1, Limits())
            with replica.engine:
                assert said in str(asyncio.run(ask(replica)))


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
