"""The state of a session: options, open documents, engines, messages to the user.

Handlers run in one event loop and never block it; the model has a worker thread. Suggestions are
made in `lsp/suggest.py`, commands run in `lsp/actions.py`, and `lsp/features.py` maps messages to
them.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Coroutine, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import unquote, urlsplit

from lsprotocol import converters, types
from pygls.lsp.server import LanguageServer
from pygls.uris import to_fs_path

from talaria import __version__
from talaria.coder.errors import TalariaError, UsageError
from talaria.coder.privacy import Fence
from talaria.coder.request import Request
from talaria.coder.source import Piece
from talaria.lsp.arrival import Arrival
from talaria.lsp.context import Neighbours
from talaria.lsp.documents import TextDocument
from talaria.lsp.engines import Engines, Middles
from talaria.lsp.fills import Filled
from talaria.lsp.inline import Computing, Inline, SuggestionOutcome
from talaria.lsp.options import ServerOptions
from talaria.lsp.progress import LOADING, Progress
from talaria.lsp.protocol import UNVERSIONED, Protocol
from talaria.lsp.rhythm import Rhythm
from talaria.lsp.usage import Usage

if TYPE_CHECKING:
    from talaria.coder.checkpoint import Checkpoint
    from talaria.coder.engine import EngineState
    from talaria.coder.results import Frame, Infill

log = logging.getLogger("talaria")

T = TypeVar("T")

PYTHON = "python"  # the only language with a grammar
LARGEST = 4_000_000  # characters; a larger document gets no suggestions
EXCERPTS = 450  # characters of other files: about a third of the shipped model's context
FLUSH_SECONDS = 300.0  # between two writes of the usage counts
MESSAGES = 20  # shown per session, at most


class Superseded(Exception):
    """A newer request about the same document took this one's place, or the engines closed."""


def file_path(uri: str) -> Path | None:
    """The path of a document; None if it is not a file, or the URI is invalid."""
    try:
        name = to_fs_path(uri)
    except ValueError:
        return None
    return Path(name) if name else None


class OpenFile:
    """An open document and its state in the server.

    withheld    why no model may see it; None if one may
    excerpts    of other files that are relevant in it
    requests    how many suggestions were requested, by which debouncing notices a newer request
    edited      time and line of the last change
    computing   the suggestion that was or is being computed
    last        the last answer of a model, that model, prefix and suffix
    filled      the last fill
    unreadable  a change could not be read, so the editor now has a different text
    writing     held from reading the text until the editor has applied our edit
    """

    def __init__(self, document: TextDocument, path: Path | None, withheld: str | None) -> None:
        self.document, self.path, self.withheld = document, path, withheld
        self.inline = Inline()
        self.rhythm = Rhythm()
        self.excerpts: tuple[Piece, ...] = ()
        self.requests = 0
        self.edited = 0.0, 0
        self.computing: Computing | None = None
        self.last: tuple[Infill, Checkpoint, str, str] | None = None
        self.filled: Filled | None = None
        self.unreadable = False
        self.writing = asyncio.Lock()


class TalariaServer(LanguageServer):
    """Talaria's language server."""

    protocol: Protocol

    def __init__(self, options: ServerOptions, usage: Usage | None = None) -> None:
        """`options` come from the command line.

        An editor's initializationOptions override them, and its settings override both.
        """
        self.converter = converters.get_converter()  # creating one takes milliseconds
        super().__init__(
            "talaria",
            __version__,
            types.TextDocumentSyncKind.Incremental,
            protocol_cls=Protocol,
            converter_factory=lambda: self.converter,
        )
        self.options = self.base = options  # `base`: without the editor's settings
        self.usage = usage or Usage()
        self.files: dict[str, OpenFile] = {}
        self.off: set[str] = set()  # languages switched off; "" means all
        self.ended = False  # by `shutdown`
        self.roots: list[str] = []  # URIs of the workspace folders
        self.neighbours = Neighbours((), ())
        self.engines: Engines | None = None
        self.arrival = Arrival(self)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._reported: set[str] = set()  # topics of messages already shown
        self._tasks: set[asyncio.Task[Any]] = set()
        self._busy = 0
        self.loading = Progress(self, LOADING)
        self._looking = False  # whether excerpts are being chosen
        self.pages: list[Path] = []  # trace pages, deleted with the session
        self.protocol.on_unread = self.mark_unreadable

    # Start and end

    def begin(self, params: types.InitializeParams) -> None:
        """Apply the editor's options and start to load the model."""
        self._loop = asyncio.get_running_loop()
        self.set_options(params.initialization_options)
        self.base = self.options
        uris = [folder.uri for folder in params.workspace_folders or ()]
        self.set_roots(uris or [params.root_uri or ""])
        self.engines = self._start_engines()

    def _start_engines(self) -> Engines:
        return Engines(
            self.options, self._model_changed, self._engines_trouble, self._model_progress
        )

    async def end(self) -> None:
        """Cancel all work, release the model, write the usage counts."""
        self.ended = True
        self.arrival.stop()
        for task in [*self._tasks]:
            task.cancel()
        for file in self.files.values():
            self.count(file, file.inline.end())
        engines, self.engines = self.engines, None
        if engines:
            await engines.close()
        await asyncio.to_thread(self.leave)

    def leave(self) -> None:
        """Write the usage counts and delete trace pages; from any thread, more than once."""
        self.usage.flush()
        for page in self.pages:
            with contextlib.suppress(OSError):
                page.unlink(missing_ok=True)

    def spawn(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Run a coroutine in the background until the server ends."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)

        def done(task: asyncio.Task[Any]) -> None:
            self._tasks.discard(task)
            if not task.cancelled() and (error := task.exception()):
                self.fault("in the background", error)

        task.add_done_callback(done)
        return task

    async def show_progress(self) -> None:
        """Show progress until a model is chosen and loaded."""
        engines = self.engines
        if engines is None or not await self.loading.begin("Talaria: loading the model"):
            return
        try:
            ending = f"{await engines.settled()} is ready"
        except Exception:  # reported by `_model_changed`
            ending = "no model could be loaded"
        self.loading.end(ending)

    async def count_forever(self) -> None:
        """Write the usage counts at intervals."""
        while True:
            await asyncio.sleep(FLUSH_SECONDS)
            await asyncio.to_thread(self.usage.flush)

    # Options

    def set_options(self, given: object) -> None:
        """Apply an editor's options, replacing its earlier ones; report invalid values once.

        Options that are no longer among them fall back to the base.
        """
        base = self.base if isinstance(given, Mapping) or not given else self.options
        self.options, problems = base.merged(given)
        for problem in problems:
            log.warning("%s", problem)
        if problems:
            more = f" ({len(problems) - 1} more in the log)" if len(problems) > 1 else ""
            self.report(f"{problems[0]}{more}", types.MessageType.Warning)

    async def configure(self, given: object) -> None:
        """Apply new settings; restart the engines if model or endpoint changed."""
        before = self.options
        self.set_options(given)
        if self.engines and self.options.needs_restart(before):
            old, self.engines = self.engines, None
            await old.close()
            if self.ended:
                return
            self.engines = self._start_engines()
        elif self.engines:
            self.engines.options = self.options
        if self.options.exclude != before.exclude:
            self.set_roots(self.roots)
        if self.options != before:
            for file in self.files.values():
                file.inline.forget()
            self.announce()

    def set_roots(self, uris: list[str]) -> None:
        """Set the workspace folders, and apply `exclude` to them."""
        self.roots = uris
        paths = [path for path in map(file_path, uris) if path]
        valid = []
        for pattern in self.options.exclude:
            try:
                Fence((), [pattern])
            except UsageError as error:
                self.report(f"{error}. The pattern is ignored.", types.MessageType.Warning)
            else:
                valid.append(pattern)
        self.neighbours = Neighbours(paths, valid, EXCERPTS)
        for file in self.files.values():
            file.withheld = self._withheld(file.document.uri)
            file.excerpts = ()

    def toggle(self, language: str) -> bool:
        """Switch suggestions off or on, in one language or all (""); whether they are on now."""
        self.off ^= {language}
        self.announce()
        return self.options.enabled and not self.off & {"", language}

    def statistics(self) -> dict[str, Any]:
        """The answer to `talaria.status`."""
        engine = self.engines.statistics() if self.engines else {"state": "loading"}
        if self.arrival.why:
            engine.setdefault("choice", self.arrival.why)
        return {
            "enabled": self.options.enabled and "" not in self.off,
            "off": sorted(self.off - {""}),
            "documents": len(self.files),
            "engine": engine,
        }

    # Messages

    def report_server_error(self, error: Exception, source: Any) -> None:
        """Log an error of a handler; pygls would show a pop-up for each."""
        log.error("%s: %s", getattr(source, "__name__", source), error)

    def fault(self, where: str, error: BaseException) -> None:
        """Log an error of the server's own, and say once that there was one."""
        log.error("%s: %r", where, error, exc_info=error)
        said = "a request failed by a fault of the server's own; its log has the details"
        self.report(said, types.MessageType.Warning)

    def report(self, message: str, kind: types.MessageType, topic: str | None = None) -> None:
        """Show an unsolicited message, once per topic; by default the topic is the message."""
        topic = topic or message
        if topic not in self._reported and len(self._reported) < MESSAGES:
            self._reported.add(topic)
            self.window_show_message(types.ShowMessageParams(kind, f"Talaria: {message}"))

    def answer_user(self, message: str) -> None:
        """Say why a command did nothing, every time, because the user asked."""
        kind = types.MessageType.Info
        self.window_show_message(types.ShowMessageParams(kind, f"Talaria: {message}"))

    def announce(self, message: str = "") -> None:
        """Send `talaria/status`, if the editor enabled it."""
        if not self.options.status:
            return
        state = self.engines.state if self.engines else "loading"
        if not self.options.enabled or "" in self.off:
            state = "off"  # type: ignore[assignment]
        elif self._busy and state == "ready":
            state = "busy"  # type: ignore[assignment]
        self.protocol.notify("talaria/status", {"state": state, "message": message})

    def count(self, file: OpenFile, outcome: SuggestionOutcome | None) -> None:
        """Count the outcome of a suggestion."""
        if outcome and self.options.usage:
            self.usage.record(
                outcome.ending,
                language=file.document.language,
                trigger=outcome.trigger,
                characters=outcome.characters,
            )

    def _model_changed(self, state: EngineState, detail: str) -> None:
        """Another model answers while the user types, or none can; from the loading thread."""

        def announce() -> None:
            for file in self.files.values():
                file.inline.forget()
            self.announce(detail)
            if state == "failed":
                self.report(detail, types.MessageType.Error)

        self.later(announce)

    def _model_progress(self, done: float) -> None:
        """Say how much of a base has been prepared; called from a loading thread."""
        # Nothing can be counted while the library for GGUF reads the vocabulary.
        state = f"{100 * done:.0f} %" if done else "reading its vocabulary"
        self.later(self.loading.report, f"preparing it for this machine, {state}")

    def _engines_trouble(self, message: str, kind: str) -> None:
        """Show the first message of each kind about models and endpoint; the log has all."""
        log.warning("%s", message)
        topic = f"{self.options.service}: {kind}"
        self.later(self.report, message, types.MessageType.Warning, topic)

    def later(self, function: Any, *arguments: Any) -> None:
        """Call a function in the event loop, from any thread."""
        assert self._loop is not None
        self._loop.call_soon_threadsafe(function, *arguments)

    # Documents

    def opened(self, item: types.TextDocumentItem) -> None:
        """A document was opened."""
        encoding = self.server_capabilities.position_encoding or types.PositionEncodingKind.Utf16
        version = None if item.version == UNVERSIONED else item.version
        document = TextDocument(item.uri, item.language_id, version, item.text, encoding)
        self.closed(item.uri)  # in case the editor did not close it
        withheld = self._withheld(item.uri)
        file = self.files[item.uri] = OpenFile(document, file_path(item.uri), withheld)
        if self.offers(file):
            self.choose_excerpts(file, 0)  # the first time is slow

    def changed(self, params: types.DidChangeTextDocumentParams) -> tuple[str, str] | None:
        """Apply changes; prefix and suffix after a suggestion that they accepted, if they did."""
        file = self.files.get(params.text_document.uri)
        if file is None:
            log.warning("change to %s, which is not open", params.text_document.uri)
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
                file.unreadable = False
            else:
                file.edited = time.monotonic(), max(0, change.range.start.line)
        document.version = version
        file.rhythm.key(time.monotonic())
        shown = file.inline.shown
        outcome = file.inline.changed(document.text)
        self.count(file, outcome)
        if shown is None or outcome is None or outcome.ending != "accepted":
            return None
        return document.text[: len(document.text) - len(shown.suffix)], shown.suffix

    def mark_unreadable(self, uri: str) -> None:
        """A change could not be read: stay silent until the editor sends the whole text."""
        if file := self.files.get(uri):
            log.warning("no suggestions in %s until its whole text is sent", uri)
            file.unreadable = True
            file.document.revision += 1  # makes pending requests stale
            self.count(file, file.inline.end())

    def closed(self, uri: str) -> None:
        """A document was closed."""
        if file := self.files.pop(uri, None):
            file.document.revision += 1  # makes pending requests stale
            self.count(file, file.inline.end())

    def offers(self, file: OpenFile | None) -> bool:
        """Whether a document may get suggestions at all."""
        return self.silent_because(file) is None

    def silent_because(self, file: OpenFile | None) -> str | None:
        """Why a document gets no suggestions at all, for its user; None if it may."""
        if file is None or self.engines is None:
            return "the file is not open" if file is None else "the server is starting"
        language = file.document.language
        if not self.options.enabled or self.off & {"", language}:
            return "suggestions are switched off"
        if file.withheld:
            return f"this file is withheld from the model: {file.withheld}"
        if file.unreadable:
            return "the editor's last change could not be read; close and open the file"
        if len(file.document.text) > LARGEST:
            return f"the file has more than {LARGEST:,} characters"
        return "the file contains a NUL character" if "\0" in file.document.text else None

    def choose_excerpts(self, file: OpenFile, offset: int) -> None:
        """Choose excerpts of other files in the background, for the next request."""
        if self._looking or not self.options.related_files:
            return
        neighbours, text = self.neighbours, file.document.text
        latest = sorted(self.files.values(), key=lambda other: other.edited, reverse=True)
        others = {
            other.path: other
            for other in latest
            if other.path and other is not file and not other.withheld and not other.unreadable
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
                if neighbours is self.neighbours:  # else its files may be excluded by now
                    file.excerpts = found
            finally:
                self._looking = False

        self.spawn(look())

    def _withheld(self, uri: str) -> str | None:
        """Why no model may see a document, which may be a copy of a file; None if one may."""
        try:
            path = file_path(uri) or Path(unquote(urlsplit(uri).path))
        except ValueError:
            return "its address is not valid"
        return self.neighbours.fence.withheld(path)

    # Requests

    async def ask(
        self,
        file: OpenFile,
        request: Request,
        on_frame: Callable[[Frame, Checkpoint], None] | None = None,
        *,
        typing: bool = False,
    ) -> Middles | None:
        """Ask the engines; None if they cannot answer, and the log says why.

        `typing` says that nobody made the request on purpose.

        Raises:
            Superseded: nobody needs the answer any more.
        """
        if self.engines is None:
            raise Superseded  # the server ends, or the engines restart
        self._busy += 1
        if self._busy == 1:
            self.announce()
        try:
            middles = await self.engines.ask(request, on_frame, typing=typing)
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if task and task.cancelling():
                raise  # cancelled by the editor
            raise Superseded from error
        except TalariaError as error:
            log.warning("%s", error)
            return None
        except Exception as error:  # whatever is wrong with a model, an editor gets no suggestion
            self.fault("the model's answer", error)
            return None
        finally:
            self._busy -= 1
            if not self._busy:
                self.announce()
        if middles.infill and middles.model:
            file.last = middles.infill, middles.model, request.prefix, request.suffix
        return middles
