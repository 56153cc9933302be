"""`talaria lsp`: the language server on standard input and output, a TCP port or a WebSocket."""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import signal
import sys
from collections.abc import Sequence
from typing import BinaryIO, NoReturn

from talaria.coder.arguments import Parser
from talaria.coder.ending import ENDING
from talaria.coder.errors import UsageError
from talaria.lsp import transports
from talaria.lsp.options import ServerOptions, add_flags, from_flags

PORT = 2087


def main(argv: Sequence[str] | None = None) -> int:
    """Serve one editor until it exits; exit code 0, or 1 if it left without `shutdown`."""
    args = parser().parse_args(argv)
    options, problems = from_flags(args)
    if problems:
        raise UsageError(problems[0].replace(". Using ", "; the default is "))
    if not 0 < args.port < 65536:
        raise UsageError(f"--port is {args.port}; it must be between 1 and 65535")
    logging.basicConfig(
        level=args.log_level.upper(), format="%(asctime)s %(name)s %(levelname)s %(message)s"
    )
    # pygls would log every message of a session, httpx2 every URL.
    for name in ("pygls", "httpx2"):
        logging.getLogger(name).setLevel(max(logging.ERROR, logging.getLogger().level))
    for each in ENDING:
        # An editor means at once, and there is nothing to tidy up. Unwinding waits for threads.
        signal.signal(each, signal.SIG_DFL)
    asyncio.run(serve(options, args))


async def serve(options: ServerOptions, args: argparse.Namespace) -> NoReturn:
    """Serve one editor, then end the process."""
    from talaria.lsp.features import register
    from talaria.lsp.server import TalariaServer

    server = TalariaServer(options)
    register(server)
    if args.tcp or args.ws:
        kind, listen = ("tcp", transports.tcp) if args.tcp else ("ws", transports.websocket)
        where = f"{kind}://{args.host}:{args.port}"

        def listening() -> None:
            print(f"talaria: listening on {where}", file=sys.stderr, flush=True)

        try:
            await listen(server, args.host, args.port, listening)
        except OSError as error:
            raise UsageError(
                f"cannot listen on {where} ({error.strerror}); choose another --host or --port"
            ) from error
    else:
        await transports.streams(server, *own_streams())
    server.leave()
    # Reader and engine threads would keep the process alive; there is nothing left to write.
    logging.shutdown()
    os._exit(0 if server.ended else 1)


def parser() -> argparse.ArgumentParser:
    """The options of `talaria lsp`."""
    found = Parser(
        prog="talaria lsp",
        description="The language server. Editors can set every option too, in "
        "initializationOptions or in their settings, by the same name with underscores.",
    )
    transport = found.add_mutually_exclusive_group()
    transport.add_argument("--tcp", action="store_true", help="serve one editor on a TCP port")
    transport.add_argument("--ws", action="store_true", help="serve one editor on a WebSocket")
    found.add_argument("--host", default="127.0.0.1", help="address to listen on (127.0.0.1)")
    port_help = f"port to listen on ({PORT})"
    found.add_argument("--port", type=int, default=PORT, metavar="N", help=port_help)
    found.add_argument(
        "--log-level",
        choices=("debug", "info", "warning", "error"),
        default="warning",
        help="lowest level to log on standard error (warning)",
    )
    add_flags(found)
    return found


def own_streams() -> tuple[BinaryIO, BinaryIO]:
    """Standard input and output, for the protocol only: anything else printed goes to the log."""
    streams = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    return streams
