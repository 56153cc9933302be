"""`talaria serve`: one model for many editors, over HTTP."""

from __future__ import annotations

import importlib.util
import logging
import socket
import ssl
import sys
from collections.abc import Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import TYPE_CHECKING

from talaria.coder.arguments import Parser
from talaria.coder.ending import leave
from talaria.coder.errors import TalariaError, UsageError

if TYPE_CHECKING:
    import argparse

    from talaria.coder.checkpoint import Checkpoint

HOST, PORT = "127.0.0.1", 8012  # the port that llama.vim asks
NEEDED = ("starlette", "uvicorn", "pydantic", "prometheus_client")
BATCH, MOST_BATCH = 1, 64  # docs/decisions/0012-serving.md has figures
CONNECTIONS = 1000  # at the same time; each takes some kilobytes
# Seconds until an idle connection is closed: longer than the language server's endpoint keeps one,
# or it would now and then send a request into a connection that is just being closed.
KEEP = 75
SEAL = 5.0  # seconds, at a stop, beyond the longest deadline


def command(argv: Sequence[str]) -> int:
    """Serve until a signal; exit code 0."""
    args = parser().parse_args(argv)
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise TalariaError(
            f"`talaria serve` needs {', '.join(missing)}, which are not installed; "
            "in a checkout: pip install '.[serve]'"
        )
    if args.new_key is not None:
        return new_key(args.new_key)
    checked(args)
    return serve(args)


def parser() -> argparse.ArgumentParser:
    """The options of `talaria serve`."""
    found = Parser(
        prog="talaria serve",
        description="Serve a model to editors: llama.cpp's /infill, OpenAI's /v1/completions, "
        "Mercury's /v1/fim/completions.",
    )
    found.add_argument(
        "--model",
        help="a folder, a GGUF file, or a name from `talaria models` (default: the one marked "
        "there)",
    )
    found.add_argument("--device", default="cpu", help="cpu, cuda, cuda:N or mps")
    found.add_argument("--host", default=HOST, help="address to listen on; others need --keys")
    found.add_argument(
        "--port", type=int, default=PORT, metavar="N", help="port to listen on; 0: any"
    )
    found.add_argument("--keys", type=Path, metavar="FILE", help="keys that may use the server")
    found.add_argument("--new-key", metavar="NAME", help="print a new key and its table, and end")
    found.add_argument(
        "--queue", type=int, default=64, metavar="N", help="requests at once; more get 429"
    )
    found.add_argument(
        "--batch",
        type=int,
        default=BATCH,
        metavar="N",
        help="requests that share the passes of the model; 1: one after another",
    )
    found.add_argument(
        "--cache-mb", type=int, default=512, metavar="N", help="memory for contexts that were read"
    )
    found.add_argument(
        "--deadline-ms",
        type=int,
        default=20_000,
        metavar="N",
        help="longest time for a request; whatever is written by then is its answer",
    )
    found.add_argument(
        "--body-kb", type=int, default=2_000, metavar="N", help="longest body of a request"
    )
    found.add_argument("--tls-cert", type=Path, metavar="FILE", help="certificate chain, PEM")
    found.add_argument("--tls-key", type=Path, metavar="FILE", help="its private key, PEM")
    found.add_argument(
        "--log-level",
        choices=("debug", "info", "warning", "error"),
        default="warning",
        help="lowest level to log on standard error; info has a line a request, without its text",
    )
    return found


def checked(args: argparse.Namespace) -> None:
    """UsageError for options that cannot be right."""
    if not 0 <= args.port < 65536:
        raise UsageError(f"--port is {args.port}; it must be between 0 and 65535")
    for name in ("queue", "batch", "cache_mb", "deadline_ms", "body_kb"):
        most = MOST_BATCH if name == "batch" else 1_000_000
        if not 1 <= (value := getattr(args, name)) <= most:
            flag = name.replace("_", "-")
            raise UsageError(f"--{flag} is {value}; it must be between 1 and {most}")
    if (args.tls_cert is None) != (args.tls_key is None):
        raise UsageError("--tls-cert and --tls-key belong together; give both")
    for path in filter(None, (args.tls_cert, args.tls_key)):
        if not path.is_file():
            raise UsageError(f"{path} is not a file; name a PEM file")
    if args.tls_cert is not None:
        try:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(args.tls_cert, args.tls_key, password="")  # asks nobody
        except (OSError, ValueError) as error:
            raise UsageError(
                f"--tls-cert {args.tls_cert} and --tls-key {args.tls_key} cannot be used "
                f"({error}); name a certificate and its own key, unencrypted, both PEM"
            ) from error
    if args.keys is None and not loopback(args.host):
        raise UsageError(
            f"--host is {args.host}, which others can reach, and without --keys anybody there may "
            "use the server; make a key with `talaria serve --new-key NAME`"
        )


def loopback(host: str) -> bool:
    """Whether a host name refers to this machine alone."""
    import ipaddress

    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def listening(host: str, port: int) -> socket.socket:
    """A socket that listens; UsageError if that is not possible."""
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family, backlog=512)
    except OSError as error:
        raise UsageError(
            f"cannot listen on {host}:{port} ({error.strerror}); choose another --host or --port"
        ) from None


def new_key(name: str) -> int:
    """Print a key for its user on standard error, and its table, for the file, on the output."""
    from talaria.coder.serve import keys

    key, table = keys.new(name)
    print(f"talaria: the key of {name}, shown once: {key}", file=sys.stderr)
    print(table, end="")
    return 0


def serve(args: argparse.Namespace) -> int:
    """Load the model and answer."""
    import uvicorn

    from talaria.coder.engine import Engine
    from talaria.coder.loading import load
    from talaria.coder.serve import keys
    from talaria.coder.serve.app import Service, application
    from talaria.coder.serve.connections import Connection, Server
    from talaria.coder.serve.desk import Desk, Limits
    from talaria.coder.serve.metrics import Metrics

    known = keys.Keys(keys.read(args.keys)) if args.keys else None
    logging.basicConfig(
        level=args.log_level.upper(), format="%(asctime)s %(name)s %(levelname)s %(message)s"
    )
    limits = Limits(args.queue, args.deadline_ms / 1000)
    metrics = Metrics()
    with Engine(
        lambda: load(args.model, args.device),
        workers=args.batch,
        most_bytes=1_000_000 * args.cache_mb,
        on_pass=metrics.shared.observe,
    ) as engine:
        desk = Desk(engine, limits, metrics)
        service = Service(desk, metrics, known, 1000 * args.body_kb)
        config = uvicorn.Config(
            application(service),
            host=args.host,
            port=args.port,
            http=Connection,
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            limit_concurrency=CONNECTIONS,
            timeout_keep_alive=KEEP,
            timeout_graceful_shutdown=int(limits.seconds + SEAL),
            ssl_certfile=args.tls_cert,
            ssl_keyfile=args.tls_key,
        )
        server = Server(config, desk.stop)

        def loaded(model: Future[Checkpoint]) -> None:
            if model.exception():
                server.should_exit = True
            else:
                print(f"talaria: {model.result().name} answers", file=sys.stderr, flush=True)

        scheme = "https" if args.tls_cert else "http"
        with listening(args.host, args.port) as listener:
            host, port = listener.getsockname()[:2]
            where = f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}"
            print(f"talaria: listening on {where}", file=sys.stderr, flush=True)
            engine.model.add_done_callback(loaded)
            server.run([listener])
        if not engine.model.done():
            leave(0)  # nothing is owed yet
        if error := engine.model.done() and engine.model.exception():
            raise error
    return 0
