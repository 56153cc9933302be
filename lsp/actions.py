"""Commands: write a function, fill in, rewrite, next candidate, accept a word, show the trace.

Commands write with `workspace/applyEdit`, to exactly the version of the document that they read,
and only text that `coder/guard.py` allows. A command that does nothing tells the user why.
"""

from __future__ import annotations

import asyncio
import logging
import re
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from lsprotocol import types

from talaria.coder.request import Request
from talaria.lsp.documents import plain
from talaria.lsp.engines import Middles
from talaria.lsp.fills import Filled, FillKind, fills_at
from talaria.lsp.server import PYTHON, OpenFile, Superseded, TalariaServer

if TYPE_CHECKING:
    from talaria.coder.checkpoint import Checkpoint
    from talaria.coder.results import Frame

log = logging.getLogger("talaria")

CHANGE_POLLS = 20  # hundredths of a second to wait for the change after an edit was applied
EDIT_SECONDS = 60.0  # to apply an edit; some editors ask their user first
ACTION = types.CodeActionKind.RefactorRewrite
COMMANDS: dict[FillKind, str] = {
    "function": "talaria.fillFunction",
    "here": "talaria.fillHere",
    "rewrite": "talaria.rewrite",
}
_NOT_FOUND = {"function": "no function", "here": "nothing to fill in", "rewrite": "no selection"}
# The next word or punctuation with surrounding blanks; the rest of the line with its end.
_PARTS = {"word": r"\s*(?:\w+|[^\w\s]+)[ \t]*", "line": r"\s*[^\n]*\n?"}


def code_actions(server: TalariaServer, params: types.CodeActionParams) -> list[types.CodeAction]:
    """Code actions for what can be filled at the cursor or in the selection."""
    file = server.files.get(params.text_document.uri)
    only = params.context.only
    if file is None or not server.offers(file) or file.document.language != PYTHON:
        return []
    if only and not any(ACTION.value.startswith(getattr(kind, "value", kind)) for kind in only):
        return []
    start, end = sorted(map(file.document.offset, (params.range.start, params.range.end)))
    place = {
        "uri": file.document.uri,
        "range": server.converter.unstructure(params.range),
    }
    return [
        types.CodeAction(
            f"Talaria: {fill.title}",
            ACTION,
            command=types.Command(fill.title, COMMANDS[fill.kind], arguments=[place]),
        )
        for fill in fills_at(file.document.text, start, end)
    ]


async def fill(server: TalariaServer, kind: FillKind, uri: str, place: types.Range) -> str | None:
    """Fill a range of a document; the text written, or None."""
    file = server.files.get(uri)
    if file is None or not server.offers(file):
        server.answer_user(f"nothing to fill: {server.silent_because(file)}")
        return None
    document, text, options = file.document, file.document.text, server.options
    start, end = sorted((document.offset(place.start), document.offset(place.end)))
    target = next((each for each in fills_at(text, start, end) if each.kind == kind), None)
    if target is None:
        server.answer_user(f"{_NOT_FOUND[kind]} at line {place.start.line + 1}")
        return None
    if document.language != PYTHON:
        server.answer_user(f"code in {document.language[:20]!r} cannot be checked, only Python can")
        return None
    revision = document.revision
    prefix, suffix = target.cut(text)
    request = Request(
        prefix,
        suffix,
        options.decoding(candidates=max(2, options.candidates), until=target.until, complete=True),
        files=file.excerpts if options.related_files else (),
        replaces=text[target.start : target.end],
        cell=document.cell,
        document=(uri, "fill"),  # a key of its own, so that typing does not supersede it
        seconds=options.fill_deadline_ms / 1000,
    )
    on_frame = step_sender(server, file, target.start, target.lead) if options.steps else None
    superseded, middles, refusal = False, None, None
    texts: list[str] = []
    try:
        middles = await server.ask(file, request, on_frame)
        if middles:
            texts, refusal = await writable(middles, request)
    except Superseded:
        superseded = True
    if server.ended:
        return None
    if options != server.options or not server.offers(file):
        server.answer_user("the settings or exclusions changed meanwhile; ask again")
        return None
    if superseded:
        return None  # the newer command answers the user
    if middles is None:
        server.answer_user("no answer; the log says why")
        return None
    if not texts:
        server.answer_user(refusal or "the model has nothing to offer here")
        return None
    async with file.writing:
        if document.revision != revision or server.files.get(uri) is not file:
            server.answer_user("the file changed meanwhile; ask again")
            return None
        file.filled = Filled(prefix, suffix, tuple(texts))
        written = target.lead + texts[0]
        if not await write(server, file, target.start, target.end, written, target.title):
            return None
    if options.usage:
        for event in ("shown", "accepted"):
            server.usage.record(
                event, language=document.language, trigger=kind, characters=len(texts[0])
            )
    return texts[0]


async def writable(middles: Middles, request: Request) -> tuple[list[str], str | None]:
    """The distinct texts that may be written, and why the first of the others may not."""
    texts: list[str] = []
    first_refusal = None
    for text in dict.fromkeys(each.rstrip() for each in middles.texts):
        if text == request.replaces or not text:
            continue  # nothing would change
        refusal = await middles.refusal(request, text)
        if refusal is None:
            texts.append(text)
        first_refusal = first_refusal or refusal
    return texts, first_refusal


def step_sender(
    server: TalariaServer, file: OpenFile, start: int, lead: str
) -> Callable[[Frame, Checkpoint], None]:
    """A function for the engine's worker thread that sends each step as `talaria/step`.

    `lead` will be written before the middle.
    """
    document = file.document
    position = server.converter.unstructure(document.position(start))
    head = {"uri": document.uri, "version": document.version, "position": position}
    canvases: dict[int, list[str | None]] = {}

    def send(frame: Frame, model: Checkpoint) -> None:
        from talaria.coder.trace import pieces

        if 0 not in frame.rows:
            return
        row, canvas = frame.rows.index(0), frame.step.canvas
        ids = canvas.ids[row, : int(canvas.ended[row])].tolist()
        # Masks that no step has evaluated yet only show the length of the canvas.
        written = max(
            (n + 1 for n, token in enumerate(ids) if token != canvas.marks.mask), default=0
        )
        shown_ids = ids[: written + model.settings.lookahead]
        canvases[frame.canvas] = pieces(shown_ids, model, frame.healed)
        shown: list[str | None] = [lead] * bool(lead)
        shown += [piece for number in sorted(canvases) for piece in canvases[number]]
        server.later(server.protocol.notify, "talaria/step", {**head, "pieces": shown})

    return send


async def next_candidate(server: TalariaServer, uri: str) -> str | None:
    """Replace the last fill with its next candidate; the text written, or None."""
    file = server.files.get(uri)
    if file is None or not server.offers(file):
        server.answer_user(f"no candidate: {server.silent_because(file)}")
        return None
    async with file.writing:
        filled = file.filled
        if filled is None:
            server.answer_user("nothing has been filled in this file yet")
            return None
        if file.document.text != filled.prefix + filled.text + filled.suffix:
            server.answer_user("the file changed since it was filled; ask again")
            return None
        if len(filled.texts) == 1:
            server.answer_user("there is no other candidate")
            return None
        start, end = len(filled.prefix), len(filled.prefix) + len(filled.text)
        following = filled.next()
        title = f"candidate {following.place + 1} of {len(following.texts)}"
        if not await write(server, file, start, end, following.text, title):
            return None
        file.filled = following
        return following.text


async def accept(
    server: TalariaServer, uri: str, part: Literal["word", "line"], on_screen: object = None
) -> str | None:
    """Insert the next word or line of the ghost text, for editors that cannot; the text inserted.

    `on_screen` is the candidate that the user sees, by default the first. None, without a message,
    if the editor rejects the edit.
    """
    file = server.files.get(uri)
    if file is None:
        return None
    async with file.writing:
        shown = file.inline.shown
        if not server.offers(file) or shown is None:
            return None
        seen = shown.texts[0] if on_screen is None else plain(str(on_screen))
        if seen not in shown.texts or file.document.text != shown.prefix + shown.suffix:
            return None
        found = re.match(_PARTS[part], seen)
        text = found[0] if found and found[0] else seen
        place = len(shown.prefix)
        title = f"accept {part}"
        return text if await write(server, file, place, place, text, title, report=False) else None


def accepted(server: TalariaServer, uri: str, number: object) -> None:
    """Count a suggestion as accepted, unless its change already did."""
    file = server.files.get(uri)
    if file and file.inline.shown and file.inline.shown.id == number:
        server.count(file, file.inline.accept())


async def show_trace(server: TalariaServer, uri: str) -> str | None:
    """Show a page that replays the model's last answer for a document; the page's URI."""
    file = server.files.get(uri)
    if file is None or file.last is None:
        server.answer_user("the embedded model has not answered in this file yet")
        return None
    found, model, prefix, suffix = file.last

    def write_page() -> str:
        from talaria.coder.trace import page

        with tempfile.NamedTemporaryFile(
            "w", prefix="talaria-trace-", suffix=".html", delete=False, encoding="utf-8"
        ) as out:
            server.pages.append(Path(out.name))
            out.write(page(found, model, prefix, suffix))
        return Path(out.name).as_uri()

    page_uri = await asyncio.to_thread(write_page)
    window = server.client_capabilities.window
    if window and window.show_document and window.show_document.support:
        await server.window_show_document_async(
            types.ShowDocumentParams(page_uri, external=True, take_focus=True)
        )
    else:
        server.answer_user(f"the trace is at {page_uri}")
    return page_uri


async def write(
    server: TalariaServer,
    file: OpenFile,
    start: int,
    end: int,
    text: str,
    title: str,
    report: bool = True,
) -> bool:
    """Ask the editor to replace a range in this version of a document; whether it did.

    On success the document has usually changed by then: editors may send the change late.
    """
    revision = file.document.revision
    document, workspace = file.document, server.client_capabilities.workspace
    edit = types.TextEdit(document.range(start, end), text)
    how = workspace.workspace_edit if workspace else None
    if how and how.document_changes:
        version = types.OptionalVersionedTextDocumentIdentifier(document.uri, document.version)
        edits = types.WorkspaceEdit(document_changes=[types.TextDocumentEdit(version, [edit])])
    else:
        edits = types.WorkspaceEdit(changes={document.uri: [edit]})
    reply = server.workspace_apply_edit_async(
        types.ApplyWorkspaceEditParams(edits, f"Talaria: {title}")
    )
    try:
        result = await asyncio.wait_for(reply, EDIT_SECONDS)
    except TimeoutError:  # do not block other commands
        log.warning("the editor did not answer an edit of %s", document.uri)
        return False
    if not result.applied and report:
        reason = result.failure_reason or "it gave no reason"
        server.answer_user(f"the editor rejected the edit: {reason}")
    for _ in range(CHANGE_POLLS if result.applied else 0):
        if document.revision != revision:
            break
        await asyncio.sleep(0.01)
    return bool(result.applied)
