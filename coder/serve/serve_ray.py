"""The server on several machines: a Ray Serve application, whose replicas each have an engine.

`serve run talaria.coder.serve.serve_ray:app model=talaria-7m` starts it on a cluster, or on this
machine alone. The front has keys, formats and limits; a request goes to the replica that last
answered about its document, if it is there, since that has read its context. Who it is for is
Ray's own multiplexing, which models are usually chosen by. What a replica was doing when it died
is asked of another.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ray import serve
from ray.exceptions import RayActorError

from talaria.coder.engine import Engine
from talaria.coder.loading import load
from talaria.coder.serve import keys
from talaria.coder.serve.app import Service, application
from talaria.coder.serve.desk import RETRY, About, Desk, Limits, full, loading
from talaria.coder.serve.exchange import Asked, Given, Refusal
from talaria.coder.serve.metrics import Metrics

if TYPE_CHECKING:
    from ray.serve import Application
    from ray.serve.handle import DeploymentHandle
    from starlette.applications import Starlette

log = logging.getLogger("talaria.serve")

ATTEMPTS = 4  # replicas that a request is tried on
DOCUMENTS = 512  # that a replica is known to have read; more only cost reading them again
TOLD = 0.05  # seconds between two pieces of a stream


class Replica:
    """One engine."""

    def __init__(self, model: str | None, device: str, batch: int, limits: Limits) -> None:
        self.metrics = Metrics()
        self.engine = Engine(
            lambda: load(model, device), workers=batch, on_pass=self.metrics.shared.observe
        )
        self.desk = Desk(self.engine, limits, self.metrics)

    async def loaded(self) -> None:
        """Wait until the model is loaded, or cannot be."""
        # A caller that gives up would cancel the loading with its own waiting.
        model = asyncio.wrap_future(self.engine.model)
        await asyncio.shield(asyncio.gather(model, return_exceptions=True))

    async def about(self) -> About | Refusal:
        """What a front must know of the model, once it is loaded, or why it cannot be."""
        await self.loaded()
        try:
            return self.desk.about
        except Refusal as refusal:
            return refusal

    @serve.multiplexed(max_num_models_per_replica=DOCUMENTS)
    async def read(self, document: str) -> str:
        """Note that this replica has read a document."""
        return document

    async def ask(
        self, asked: Asked, owner: str, client: str
    ) -> AsyncIterator[str | Given | Refusal]:
        """The texts so far, if they are to be streamed, then the outcome."""
        if name := serve.get_multiplexed_model_id():
            await self.read(name)
        await self.loaded()
        texts: list[str] = []
        work = asyncio.ensure_future(self.desk.ask(asked, owner, client, texts.append))
        try:
            while asked.stream and not work.done():
                await asyncio.wait({work}, timeout=TOLD)
                if texts:
                    yield texts[-1]
                    texts.clear()
            try:
                yield await work
            except Refusal as refusal:
                yield refusal
        finally:
            work.cancel()


class RemoteDesk:
    """A desk whose engines are elsewhere."""

    def __init__(self, replicas: DeploymentHandle, limits: Limits) -> None:
        self.replicas, self.limits = replicas, limits
        self.admitted = 0
        self.known: About | None = None
        self.failure: str | None = None  # why the replica asked last has no model

    @property
    def about(self) -> About:
        """What is known of the model; Refusal before a replica has loaded it."""
        if self.known is None and self.failure:
            raise Refusal(self.failure, 503, "unavailable_error")
        if self.known is None:
            raise loading()
        return self.known

    @property
    def ready(self) -> bool:
        """Whether a request would be admitted now."""
        return self.known is not None and self.admitted < self.limits.queue

    async def learn(self) -> None:
        """Ask replicas what the model is until one has it."""
        while self.known is None:
            try:
                found = await self.replicas.about.remote()
            except RayActorError:
                await asyncio.sleep(RETRY)
                continue
            if isinstance(found, About):
                self.known = found
            else:  # another replica may have better luck
                if self.failure is None:
                    log.error("%s", found)
                self.failure = str(found)
                await asyncio.sleep(RETRY)

    async def ask(
        self,
        asked: Asked,
        owner: str,
        client: str,
        on_text: Callable[[str], None] | None = None,
    ) -> Given:
        """The outcome of a request, from whichever replica lives to give it."""
        _ = self.about  # Refusal while there is none
        if self.admitted >= self.limits.queue:
            raise full(self.admitted, RETRY)
        self.admitted += 1
        document = f"{owner} {client} {asked.document}" if asked.document else ""
        handle = self.replicas.options(stream=True, multiplexed_model_id=document)
        try:
            for _ in range(ATTEMPTS):
                try:
                    async for found in handle.ask.remote(asked, owner, client):
                        if isinstance(found, str):
                            if on_text:
                                on_text(found)
                        elif isinstance(found, Refusal):
                            raise found
                        else:
                            return found  # type: ignore[no-any-return]
                except RayActorError:
                    continue  # nothing that it wrote counts: another begins anew
        finally:
            self.admitted -= 1
        raise Refusal("no replica could answer; ask again", 503, "server_error", retry_after=RETRY)


@serve.ingress()
class Front:
    """Keys, formats and limits, in front of the replicas."""

    def __init__(self, replicas: DeploymentHandle, keys_file: str | None, limits: Limits) -> None:
        self.desk = RemoteDesk(replicas, limits)
        self.keys = keys.Keys(keys.read(Path(keys_file))) if keys_file else None
        self.learning = asyncio.get_running_loop().create_task(self.desk.learn())

    def __serve_build_asgi_app__(self) -> Starlette:
        """The routes."""
        metrics = Metrics()
        metrics.watch(self.desk)
        return application(Service(self.desk, metrics, self.keys))


def app(args: Mapping[str, str]) -> Application:
    """The application; its arguments are those of `talaria serve`, and the number of replicas.

    model, device, batch, queue, deadline_ms, keys   as there
    replicas   "2", or "1-8" to let Ray choose by how many requests wait
    """
    queue = int(args.get("queue", 64))
    limits = Limits(queue, int(args.get("deadline_ms", 20_000)) / 1000)
    batch = int(args.get("batch", 4))
    least, _, most = args.get("replicas", "1-4").partition("-")
    scale: dict[str, Any] = {"num_replicas": int(least)}
    if most:
        bounds = {"min_replicas": int(least), "max_replicas": int(most)}
        scale = {"autoscaling_config": {**bounds, "target_ongoing_requests": batch}}
    replica = serve.deployment(Replica, name="Replica", max_ongoing_requests=queue, **scale)
    front = serve.deployment(Front, name="Front", max_ongoing_requests=8 * queue)
    replicas = replica.bind(args.get("model"), args.get("device", "cpu"), batch, limits)
    return front.bind(replicas, args.get("keys"), limits)
