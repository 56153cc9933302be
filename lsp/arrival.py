"""The large model arrives by itself: offered once, fetched meanwhile, used as soon as it is ready.

Nothing is fetched before the user has agreed. What they said is remembered where models lie
(TALARIA_HOME): a yes, so that fetching goes on after a restart, and a "never". What has arrived is
kept after every interruption, and tried again while there is no network.
"""

from __future__ import annotations

import asyncio
import json
import logging
import threading
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from lsprotocol import types

from talaria.coder.checkpoint import EMBEDDED, LARGE
from talaria.coder.errors import FetchError
from talaria.coder.files import home, write
from talaria.coder.machine import available_memory
from talaria.lsp.engines import FREE_AT_START
from talaria.lsp.progress import Progress

if TYPE_CHECKING:
    from talaria.coder.bases import KnownBase
    from talaria.lsp.server import TalariaServer

log = logging.getLogger("talaria")

FETCH, LATER, NEVER = "Fetch", "Not now", "Never"
ANSWERS = "offers.json"  # in TALARIA_HOME: by name, what is remembered of FETCH and NEVER
TOKEN = "talaria/fetching"  # of the progress
PREPARING = "preparing it for this machine, once"
FIRST_PAUSE, LONGEST_PAUSE = 30.0, 600.0  # seconds between attempts to fetch, doubled each time


class Stopped(Exception):
    """The user, or the end of the session, stops the fetching."""


class Arrival:
    """Brings the large model to a server that runs without it.

    why  why it is not here, for `talaria.status`; "" if it is, or is not wanted
    """

    def __init__(self, server: TalariaServer) -> None:
        self.why = ""
        self._server = server
        self._progress = Progress(server, TOKEN)
        self._ended = threading.Event()
        self._fetching = False

    async def run(self) -> None:
        """Offer to fetch the model if it is missing; fetch it, and let the engines use it."""
        options = self._server.options
        if options.model or options.endpoint or not options.offer_fetch:
            return
        base = await asyncio.to_thread(missing)
        if base is None:
            return
        answer = remembered()
        if answer is None:
            free = available_memory()
            if free < FREE_AT_START:
                self.why = f"{LARGE} is not here, and only {free / 1e9:.1f} GB of memory are free"
                return
            self.why = f"{LARGE} is not here; {by_hand()}"
            answer = await self._ask(base)
        await self._follow(base, answer)

    async def say(self, answer: str) -> None:
        """Do what a command says, also after another answer to the offer, or without any."""
        base = await asyncio.to_thread(missing)
        if answer not in (FETCH, LATER, NEVER):
            self._server.answer_user(f"the answer is {answer!r}; it is {FETCH} or {NEVER}")
        elif base is None:
            self._server.answer_user(f"{LARGE} is here")
        elif self._fetching:
            self._server.answer_user(self.why)
        else:
            self._server.spawn(self._follow(base, answer))

    async def _follow(self, base: KnownBase, answer: str) -> None:
        """Do what the user said, and remember it."""
        if answer == FETCH:
            remember(FETCH)
            self._fetching = True
            try:
                await self._fetch(base)
            finally:
                self._fetching = False
        elif answer == NEVER:
            remember(NEVER)
            self.why = f"{LARGE} is not wanted; {by_hand()} all the same"

    def stop(self) -> None:
        """Stop fetching; what has arrived is kept."""
        self._ended.set()

    async def _ask(self, base: KnownBase) -> str:
        """What the user says to the offer."""
        message = (
            f"Talaria: {EMBEDDED} answers, a very small model. {base.name} writes far better code: "
            f"{base.bytes / 1e6:.0f} MB to fetch, {base.licence}, runs on this machine only. "
            "Fetch it now?"
        )
        actions = [types.MessageActionItem(title) for title in (FETCH, LATER, NEVER)]
        params = types.ShowMessageRequestParams(types.MessageType.Info, message, actions)
        try:
            chosen = await self._server.window_show_message_request_async(params)
        except Exception as error:  # an editor without such messages
            log.info("cannot offer %s: %r", base.name, error)
            return LATER
        return chosen.title if chosen else LATER

    async def _fetch(self, base: KnownBase) -> None:
        """Fetch the model, however often it takes, then load it."""
        server = self._server
        await self._progress.begin(f"Talaria: fetching {base.name}", stops=True)
        ending = "failed"
        try:
            pause = FIRST_PAUSE
            while True:
                try:
                    await self._get(base)
                    break
                except FetchError as error:
                    for note in (str(error), *getattr(error, "__notes__", ())):
                        log.warning("%s", note)
                    kind = types.MessageType.Warning
                    server.report(f"{error}. It is tried again by itself.", kind, "fetching")
                    self._progress.report("waiting to try again")
                await asyncio.sleep(pause)
                pause = min(2 * pause, LONGEST_PAUSE)
            self._progress.report(PREPARING)
            self.why = f"{base.name} is being prepared"
            if server.engines and await server.engines.grow(self._prepared):
                ending = f"{base.name} is ready"
            self.why = ""
        except Stopped:
            forget()
            self.why = f"fetching {base.name} was stopped; it is offered again at the next start"
            ending = "stopped"
        finally:
            self._progress.end(ending)

    async def _get(self, base: KnownBase) -> None:
        """One attempt, in a thread that does not hold up the end of the session."""
        from talaria.coder import bases

        got: Future[Path] = Future()

        def get() -> None:
            try:
                found = bases.get(base.name, None, self)
            except BaseException as error:
                with suppress(InvalidStateError):
                    got.set_exception(error)
            else:
                with suppress(InvalidStateError):
                    got.set_result(found)

        threading.Thread(target=get, name="talaria-fetch", daemon=True).start()
        await asyncio.wrap_future(got)

    # What `bases.get` tells, in its thread

    def line(self, text: str) -> None:
        """Log a sentence about a source or a file."""
        log.info("%s", text)
        self._go_on()

    def moved(self, label: str, done: int, total: int) -> None:
        """Show how much is here."""
        self._go_on()
        percent = 100 * done // total
        why = f"{LARGE} is being fetched, {percent} %"
        if why != self.why:
            self.why = why
            message = f"{done / 1e6:.0f} of {total / 1e6:.0f} MB, from {label}"
            self._server.later(self._progress.report, message, percent)

    def _prepared(self, done: float) -> None:
        """Show how much of the model is prepared."""
        self._server.later(self._progress.report, PREPARING, int(100 * done))

    def _go_on(self) -> None:
        """Raise Stopped if nobody wants it any more."""
        if self._ended.is_set() or self._progress.stopped:
            raise Stopped


def missing() -> KnownBase | None:
    """The large model's base if it can be fetched and is not here; imports what fetches."""
    from talaria.coder import bases

    try:
        base = bases.named(LARGE)
        return None if bases.state(base) in bases.HERE else base
    except FetchError:  # no home to put it into
        return None


def by_hand() -> str:
    """What fetches it at any time."""
    return f"`talaria models get {LARGE}` fetches it"


def remembered() -> str | None:
    """What the user said for good: FETCH, NEVER, or None."""
    own = home()
    try:
        said = json.loads((own / ANSWERS).read_text(encoding="utf-8"))[LARGE] if own else None
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return said if said in (FETCH, NEVER) else None


def remember(answer: str) -> None:
    """Remember it, if there is a folder that can be written to."""
    if own := home():
        try:
            own.mkdir(parents=True, exist_ok=True)
            write(own / ANSWERS, json.dumps({LARGE: answer}) + "\n")
        except OSError as error:
            log.warning("cannot remember the answer: %s", error)


def forget() -> None:
    """Ask again at the next start."""
    if own := home():
        with suppress(OSError):
            (own / ANSWERS).unlink(missing_ok=True)
