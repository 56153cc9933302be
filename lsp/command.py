"""`talaria lsp`: the language server on standard input and output, a TCP port or a WebSocket."""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import sys
from collections.abc import Sequence
from typing import BinaryIO, NoReturn

from talaria.coder.errors import UsageError
from talaria.lsp import doors
from talaria.lsp.options import Options, add_flags, from_flags

PORT = 2087


def main(argv: Sequence[str] | None = None) -> int:
    """Serve one editor and end with it; exit code 0, or 1 if it left without `shutdown`."""
    args = parser().parse_args(argv)
    options, problems = from_flags(args)
    if problems:
        raise UsageError(problems[0].replace(" It stays", " By itself it is"))
    if not 0 < args.port < 65536:
        raise UsageError(f"--port is {args.port}; it must lie between 1 and 65535")
    logging.basicConfig(
        level=args.log_level.upper(), format="%(asctime)s %(name)s %(levelname)s %(message)s"
    )
    # Of pygls, every message of a session would be told otherwise; of httpx2, addresses.
    for name in ("pygls", "httpx2"):
        logging.getLogger(name).setLevel(max(logging.ERROR, logging.getLogger().level))

    asyncio.run(serve(options, args))


async def serve(options: Options, args: argparse.Namespace) -> NoReturn:
    """Serve one editor, and end the process with it."""
    from talaria.lsp.features import register
    from talaria.lsp.server import Server

    server = Server(options)
    register(server)
    if args.tcp or args.ws:
        kind, door = ("tcp", doors.tcp) if args.tcp else ("ws", doors.websocket)
        where = f"{kind}://{args.host}:{args.port}"

        def listening() -> None:
            print(f"talaria: listening on {where}", file=sys.stderr, flush=True)

        try:
            await door(server, args.host, args.port, listening)
        except OSError as error:
            raise UsageError(
                f"cannot listen on {where} ({error.strerror}); choose another --host or --port"
            ) from error
    else:
        await doors.streams(server, *own_streams())
    server.leave()
    # Threads that read or compute would keep the process; nothing is left to be written.
    logging.shutdown()
    os._exit(0 if server.ended else 1)


def parser() -> argparse.ArgumentParser:
    """The options of `talaria lsp`."""
    found = argparse.ArgumentParser(
        prog="talaria lsp",
        description="The language server. Every option may be set by the editor too, in "
        "initializationOptions or its settings, by the same name with underscores.",
    )
    door = found.add_mutually_exclusive_group()
    door.add_argument("--tcp", action="store_true", help="serve one editor on a TCP port")
    door.add_argument("--ws", action="store_true", help="serve one editor on a WebSocket")
    found.add_argument("--host", default="127.0.0.1", help="to listen on (127.0.0.1)")
    found.add_argument("--port", type=int, default=PORT, metavar="N", help=f"({PORT})")
    found.add_argument(
        "--log-level",
        choices=("debug", "info", "warning", "error"),
        default="warning",
        help="what is told on standard error (warning)",
    )
    add_flags(found)
    return found


def own_streams() -> tuple[BinaryIO, BinaryIO]:
    """Standard input and output for the protocol alone: what others print goes to the log."""
    streams = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    return streams
