"""The language server's life: an editor comes, sets options, opens documents, and goes.

Handlers run in one event loop and compute nothing long; the model has a worker of its own.
What is done for a document stands in `lsp/suggest.py` and `lsp/requests.py`, what each
message calls in `lsp/features.py`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Coroutine, Mapping
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from lsprotocol import converters, types
from pygls.lsp.server import LanguageServer
from pygls.uris import to_fs_path

from talaria.coder.errors import TalariaError, UsageError
from talaria.coder.source import Piece
from talaria.lsp.context import Neighbours
from talaria.lsp.documents import Document
from talaria.lsp.engines import Answer, Engines, Question, State
from talaria.lsp.fills import Filled
from talaria.lsp.inline import Inline, Outcome, Suggestion
from talaria.lsp.options import Options
from talaria.lsp.privacy import Fence
from talaria.lsp.protocol import UNVERSIONED, Protocol
from talaria.lsp.rhythm import Rhythm
from talaria.lsp.usage import Usage

if TYPE_CHECKING:
    from talaria.coder.infill import Frame, Infill

log = logging.getLogger("talaria")

Place = tuple[str, str, bool]

PYTHON = "python"  # the language that there is a grammar for
LARGEST = 4_000_000  # characters of a document that gets suggestions
PIECES = 450  # characters of other files: about what a third of the shipped model's context holds
FLUSH = 300.0  # seconds between two writings of the counts
MESSAGES = 20  # that are shown in a session, at most


def place(uri: str) -> Path | None:
    """Where a document lies; None where that is no file, or no address at all."""
    try:
        name = to_fs_path(uri)
    except ValueError:
        return None
    return Path(name) if name else None


class OpenFile:
    """A document that is open, and all that the server knows of it.

    secret  whether no model may see it
    files   pieces of other files that matter in it
    asked   how many times suggestions were asked for
    edited  when and on which line it was changed last
    asking  where a suggestion is being asked for: prefix, suffix, whether several; and what comes
    last    what the embedded model did for it last, with the prefix and suffix it was given
    filled  what was written into it on request last
    fills   how many times something was asked to be written
    lost    whether a change could not be read: the editor has another text then
    writing  is held from reading the text to when the editor has written into it
    """

    def __init__(self, document: Document, path: Path | None, secret: bool) -> None:
        self.document, self.path, self.secret = document, path, secret
        self.inline = Inline()
        self.rhythm = Rhythm()
        self.files: tuple[Piece, ...] = ()
        self.asked = 0
        self.edited = 0.0, 0
        self.asking: tuple[Place, asyncio.Future[Suggestion | None]] | None = None
        self.last: tuple[Infill, str, str] | None = None
        self.filled: Filled | None = None
        self.fills = 0
        self.lost = False
        self.writing = asyncio.Lock()


class Server(LanguageServer):
    """Talaria's language server."""

    protocol: Protocol

    def __init__(self, options: Options, usage: Usage | None = None) -> None:
        """`options` come from the command line; an editor's go above them.

        What it starts with is above the flags, its settings are above both.
        """
        self.converter = converters.get_converter()  # costs milliseconds each time
        super().__init__(
            "talaria",
            metadata.version("talaria"),
            types.TextDocumentSyncKind.Incremental,
            protocol_cls=Protocol,
            converter_factory=lambda: self.converter,
        )
        self.options = self.below = options  # `below`: without the settings
        self.usage = usage or Usage()
        self.files: dict[str, OpenFile] = {}
        self.off: set[str] = set()  # languages that were switched off; "" is all of them
        self.ended = False  # by `shutdown`, as it should be
        self.roots: list[str] = []  # of the workspace, as addresses
        self.neighbours = Neighbours((), ())
        self.engines: Engines | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._told: set[str] = set()  # what was told about already
        self._tasks: set[asyncio.Task[Any]] = set()
        self._busy = 0
        self._looking = False  # for pieces of other files
        self.pages: list[Path] = []  # of traces, which go with the session
        self.protocol.unread = self.unread

    # Beginning and end

    def begin(self, params: types.InitializeParams) -> None:
        """The editor is there: take over its options and begin to load."""
        self._loop = asyncio.get_running_loop()
        self.set_options(params.initialization_options)
        self.below = self.options
        addresses = [folder.uri for folder in params.workspace_folders or ()]
        self.set_roots(addresses or [params.root_uri or ""])
        self.engines = Engines(self.options, self._engine_changed, self._endpoint_failed)

    async def end(self) -> None:
        """Let go of everything; the counts are written."""
        self.ended = True
        for task in [*self._tasks]:
            task.cancel()
        for file in self.files.values():
            self.count(file, file.inline.end())
        engines, self.engines = self.engines, None
        if engines:
            await engines.close()
        await asyncio.to_thread(self.leave)

    def leave(self) -> None:
        """Write the counts, and leave nothing else behind; from any thread, more than once."""
        self.usage.flush()
        for page in self.pages:
            with contextlib.suppress(OSError):
                page.unlink(missing_ok=True)

    def spawn(self, work: Coroutine[Any, Any, Any]) -> None:
        """Do something beside, until the server ends."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)

        def done(task: asyncio.Task[Any]) -> None:
            self._tasks.discard(task)
            if not task.cancelled() and (error := task.exception()):
                log.error("%r", error, exc_info=error)

        task.add_done_callback(done)

    async def show_progress(self) -> None:
        """`$/progress` until the model is loaded, where the editor knows of it."""
        window, engines = self.client_capabilities.window, self.engines
        if engines is None or not (window and window.work_done_progress):
            return
        token = "talaria/loading"
        try:
            await asyncio.wait_for(self.work_done_progress.create_async(token), 5)
        except Exception as error:  # an editor may refuse what it said it can do
            log.warning("no progress shown: %r", error)
            return
        title = "Talaria: loading the model"
        self.work_done_progress.begin(token, types.WorkDoneProgressBegin(title))
        try:
            ending = f"{(await engines.model()).name} is ready"
        except Exception:  # its message is shown when it happens
            ending = "there is no model"
        self.work_done_progress.end(token, types.WorkDoneProgressEnd(message=ending))

    async def count_forever(self) -> None:
        """Write the counts down now and then."""
        while True:
            await asyncio.sleep(FLUSH)
            await asyncio.to_thread(self.usage.flush)

    # Options

    def set_options(self, given: object) -> None:
        """Take over an editor's options, all of them; what is wrong with them is told once.

        What is no longer among them is as it was below them.
        """
        stands = self.below if isinstance(given, Mapping) or not given else self.options
        self.options, problems = stands.merged(given)
        for problem in problems:
            log.warning("%s", problem)
        if problems:
            more = f" ({len(problems) - 1} more in the log)" if len(problems) > 1 else ""
            self.tell(f"{problems[0]}{more}", types.MessageType.Warning)

    async def configure(self, given: object) -> None:
        """New settings: an engine anew where they ask for another model or service."""
        before = self.options
        self.set_options(given)
        if self.engines and self.options.needs_restart(before):
            old, self.engines = self.engines, None
            await old.close()
            if self.ended:
                return
            self.engines = Engines(self.options, self._engine_changed, self._endpoint_failed)
        elif self.engines:
            self.engines.options = self.options
        if self.options.exclude != before.exclude:
            self.set_roots(self.roots)
        if self.options != before:
            for file in self.files.values():
                file.inline.forget()
                file.last = None  # its tokens are those of its model
            self.announce()

    def set_roots(self, addresses: list[str]) -> None:
        """The workspace is in these folders; what it excludes may be something else then."""
        self.roots = addresses
        paths = [path for path in map(place, addresses) if path]
        sound = []
        for pattern in self.options.exclude:
            try:
                Fence((), [pattern])
            except UsageError as error:
                self.tell(f"{error}. It excludes nothing.", types.MessageType.Warning)
            else:
                sound.append(pattern)
        self.neighbours = Neighbours(paths, sound, PIECES)
        for file in self.files.values():
            file.secret = self._secret(file.document.uri)
            file.files = ()

    def toggle(self, language: str) -> bool:
        """Switch suggestions off or on, in a language or in all (""); whether they are on now."""
        self.off ^= {language}
        self.announce()
        return self.options.enabled and not self.off & {"", language}

    def statistics(self) -> dict[str, Any]:
        """What `talaria.status` answers."""
        engine = self.engines.statistics() if self.engines else {"state": "loading"}
        return {
            "enabled": self.options.enabled and "" not in self.off,
            "off": sorted(self.off - {""}),
            "documents": len(self.files),
            "engine": engine,
        }

    # Telling

    def report_server_error(self, error: Exception, source: Any) -> None:
        """An error is a line in the log; a pop-up for each would be a loop of them."""
        log.error("%s: %s", getattr(source, "__name__", source), error)

    def tell(self, message: str, kind: types.MessageType, about: str | None = None) -> None:
        """Show a message that nobody asked for, once; one alone of all `about` the same."""
        about = about or message
        if about not in self._told and len(self._told) < MESSAGES:
            self._told.add(about)
            self.window_show_message(types.ShowMessageParams(kind, f"Talaria: {message}"))

    def answer_user(self, message: str) -> None:
        """Say why a command did nothing: the user asked, so each time."""
        kind = types.MessageType.Info
        self.window_show_message(types.ShowMessageParams(kind, f"Talaria: {message}"))

    def announce(self, message: str = "") -> None:
        """Send `talaria/status`, where the editor asked for it."""
        if not self.options.status:
            return
        state = self.engines.state if self.engines else "loading"
        if not self.options.enabled or "" in self.off:
            state = "off"  # type: ignore[assignment]
        elif self._busy and state == "ready":
            state = "busy"  # type: ignore[assignment]
        self.protocol.notify("talaria/status", {"state": state, "message": message})

    def count(self, file: OpenFile, outcome: Outcome | None) -> None:
        """Count what became of a suggestion."""
        if outcome and self.options.usage:
            self.usage.record(
                outcome.ending,
                language=file.document.language,
                trigger=outcome.trigger,
                characters=outcome.characters,
            )

    def _engine_changed(self, state: State, what: str) -> None:
        """The model is loaded, or cannot be; called from a thread of the engine's."""

        def tell() -> None:
            self.announce(what)
            if state == "failed":
                self.tell(what, types.MessageType.Error)

        self.later(tell)

    def _endpoint_failed(self, message: str, kind: str) -> None:
        """Trouble with a service: the first of a kind is shown, all are in the log."""
        about = f"endpoint {self.options.endpoint}: {kind}"
        self.later(self.tell, message, types.MessageType.Warning, about)

    def later(self, what: Any, *arguments: Any) -> None:
        """Call a function in the event loop, from any thread."""
        assert self._loop is not None
        self._loop.call_soon_threadsafe(what, *arguments)

    # Documents

    def opened(self, item: types.TextDocumentItem) -> None:
        """A document is open from now on."""
        encoding = self.server_capabilities.position_encoding or types.PositionEncodingKind.Utf16
        version = None if item.version == UNVERSIONED else item.version
        document = Document(item.uri, item.language_id, version, item.text, encoding)
        self.closed(item.uri)  # if the editor forgot to say so
        secret = self._secret(item.uri)
        file = self.files[item.uri] = OpenFile(document, place(item.uri), secret)
        if self.offers(file):
            self.look_around(file, 0)  # the first look is the slow one

    def changed(self, params: types.DidChangeTextDocumentParams) -> tuple[str, str] | None:
        """A document is another one; the place behind a suggestion that was thereby accepted."""
        file = self.files.get(params.text_document.uri)
        if file is None:
            log.warning("a change of %s, which is not open", params.text_document.uri)
            return None
        document = file.document
        version: int | None = params.text_document.version
        if version == UNVERSIONED:
            version = None
        if version is not None and document.version is not None and version < document.version:
            log.warning("version %s of %s after %s", version, document.uri, document.version)
        for change in params.content_changes:
            document.change(change)
            if not isinstance(change, types.TextDocumentContentChangePartial):
                file.lost = False
            else:
                file.edited = time.monotonic(), max(0, change.range.start.line)
        document.version = version
        file.rhythm.key(time.monotonic())
        shown = file.inline.shown
        outcome = file.inline.changed(document.text) if shown else None
        self.count(file, outcome)
        if shown is None or outcome is None or outcome.ending != "accepted":
            return None
        return document.text[: len(document.text) - len(shown.suffix)], shown.suffix

    def unread(self, uri: str) -> None:
        """A change of a document cannot be read: it is silent until all of the text comes."""
        if file := self.files.get(uri):
            log.warning("%s is out of step until its whole text comes", uri)
            file.lost = True
            file.document.revision += 1  # what is being asked is about an older text
            self.count(file, file.inline.end())

    def closed(self, uri: str) -> None:
        """A document is no longer open."""
        if file := self.files.pop(uri, None):
            file.document.revision += 1  # whoever still works on it finds that it moved on
            self.count(file, file.inline.end())

    def offers(self, file: OpenFile | None) -> bool:
        """Whether there may be suggestions in a document at all."""
        return (
            file is not None
            and self.engines is not None
            and self.options.enabled
            and not self.off & {"", file.document.language}
            and not file.secret
            and not file.lost
            and len(file.document.text) <= LARGEST
            and "\0" not in file.document.text
        )

    def look_around(self, file: OpenFile, offset: int) -> None:
        """Find what other files say about a place, for the next request."""
        if self._looking or not self.options.related_files:
            return
        neighbours, text = self.neighbours, file.document.text
        latest = sorted(self.files.values(), key=lambda other: other.edited, reverse=True)
        others = {
            other.path: other
            for other in latest
            if other.path and other is not file and not other.secret and not other.lost
        }
        texts = {path: other.document.text for path, other in others.items()}
        recent = [
            (path, other.document.offset(types.Position(other.edited[1], 0)))
            for path, other in others.items()
            if other.edited[0]
        ]

        async def look() -> None:
            self._looking = True
            try:
                found = await asyncio.to_thread(
                    neighbours.pieces, file.path, text, offset, texts, recent
                )
                if neighbours is self.neighbours:  # or what it read may be excluded by now
                    file.files = found
            finally:
                self._looking = False

        self.spawn(look())

    def _secret(self, uri: str) -> bool:
        """Whether no model may see a document; what is no file may still be a copy of one."""
        try:
            path = place(uri) or Path(unquote(urlsplit(uri).path))
        except ValueError:
            return True
        return not self.neighbours.fence.fillable(path)

    # Answers

    async def ask(
        self, file: OpenFile, question: Question, watch: Callable[[Frame], None] | None = None
    ) -> Answer | None:
        """Ask the engines; None where a newer question took its place or there is no model."""
        if self.engines is None:
            return None  # it ends, or begins anew
        self._busy += 1
        if self._busy == 1:
            self.announce()
        try:
            answer = await self.engines.ask(question, watch)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task and task.cancelling():
                raise  # by the editor
            return None  # by a newer question
        except TalariaError as error:
            log.warning("%s", error)
            return None
        except Exception:  # whatever is wrong with a model, an editor gets no suggestion
            log.exception("no answer")
            return None
        finally:
            self._busy -= 1
            if not self._busy:
                self.announce()
        if answer.found:
            file.last = answer.found, question.prefix, question.suffix
        return answer
