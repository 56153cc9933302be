"""What a user asks for: write a function, fill in, rewrite, the next candidate, a trace.

Everything is written through `workspace/applyEdit`, into just the version of the document
that was read. Whoever asked is told why nothing was done.
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

from talaria.coder.syntax.judge import judge
from talaria.lsp.documents import plain
from talaria.lsp.engines import Question
from talaria.lsp.fills import Filled, Kind, at
from talaria.lsp.inline import distinct
from talaria.lsp.server import PYTHON, OpenFile, Server

if TYPE_CHECKING:
    from talaria.coder.infill import Frame

log = logging.getLogger("talaria")

PATIENCE = 20  # hundredths of a second between the answer to an edit and the changed text
UNANSWERED = 60.0  # seconds; some editors ask their user first
ACTION = types.CodeActionKind.RefactorRewrite
COMMANDS: dict[Kind, str] = {
    "function": "talaria.fillFunction",
    "here": "talaria.fillHere",
    "rewrite": "talaria.rewrite",
}
_LACKING = {"function": "no function", "here": "nothing to fill in", "rewrite": "no selection"}
# The next word and the blanks around it; a sign counts as one.
_PARTS = {"word": r"\s*(?:\w+|[^\w\s]+)[ \t]*", "line": r"\s*[^\n]*\n?"}


def code_actions(server: Server, params: types.CodeActionParams) -> list[types.CodeAction]:
    """What can be filled at the cursor or in the selection."""
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
        for fill in at(file.document.text, start, end)
    ]


async def fill(server: Server, kind: Kind, uri: str, place: types.Range) -> str | None:
    """Write what was asked for into a document; the text that was written."""
    file = server.files.get(uri)
    if file is None or not server.offers(file):
        server.answer_user("nothing to fill: the file is not open, excluded, or Talaria is off")
        return None
    document, text, options = file.document, file.document.text, server.options
    start, end = sorted((document.offset(place.start), document.offset(place.end)))
    wanted = next((each for each in at(text, start, end) if each.kind == kind), None)
    if wanted is None:
        server.answer_user(f"{_LACKING[kind]} at line {place.start.line + 1}")
        return None
    if document.language != PYTHON:
        server.answer_user(f"code of language {document.language[:20]!r} cannot be checked here")
        return None
    revision = document.revision
    prefix, suffix = wanted.cut(text)
    file.fills += 1
    number = file.fills
    question = Question(
        # Of its own: what is typed meanwhile takes nothing from who asked.
        *((uri, "fill"), prefix, suffix, file.files if options.related_files else ()),
        count=max(2, options.candidates),
        until=wanted.until,
        complete=True,
        seconds=options.fill_deadline_ms / 1000,
    )
    watch = steps(server, file, wanted.start, wanted.lead) if options.steps else None
    answer = await server.ask(file, question, watch)
    if number != file.fills or server.ended:
        return None  # whoever asked has asked for something else since
    if options != server.options or not server.offers(file):
        server.answer_user("the settings, or what is excluded, were changed meanwhile; ask again")
        return None
    if answer is None:
        server.answer_user("no answer; the log says why")
        return None
    former = text[wanted.start : wanted.end]
    middles = [each.rstrip() for each in answer.texts]
    if answer.found is None:
        middles = [each for each in middles if judge(prefix, each, suffix, complete=True).clean]
    texts = distinct([each for each in middles if each.strip() and each != former], len(middles))
    if not texts:
        server.answer_user("the model has nothing to offer here")
        return None
    async with file.writing:
        if document.revision != revision or server.files.get(uri) is not file:
            server.answer_user("the file was changed meanwhile; ask again")
            return None
        file.filled = Filled(prefix, suffix, texts)
        said = wanted.lead + texts[0]
        if not await write(server, file, wanted.start, wanted.end, said, wanted.title):
            return None
    if options.usage:
        for event in ("shown", "accepted"):
            server.usage.record(
                event, language=document.language, trigger=kind, characters=len(texts[0])
            )
    return texts[0]


def steps(server: Server, file: OpenFile, start: int, lead: str) -> Callable[[Frame], None]:
    """A function for the model's worker that tells the editor of each step (`talaria/step`).

    `lead` is what will be written before the middle.
    """
    engines, document = server.engines, file.document
    position = server.converter.unstructure(document.position(start))
    head = {"uri": document.uri, "version": document.version, "position": position}
    canvases: dict[int, list[str | None]] = {}

    def watch(frame: Frame) -> None:
        from talaria.coder.trace import pieces

        if 0 not in frame.rows or engines is None:
            return
        row, canvas = frame.rows.index(0), frame.step.canvas
        ids = canvas.ids[row, : int(canvas.ended[row])].tolist()
        model = engines.loaded
        # Masks that no step has looked at yet say only how long a canvas is.
        written = max((n + 1 for n, token in enumerate(ids) if token != canvas.mask), default=0)
        shown_ids = ids[: written + model.decoding.lookahead]
        canvases[frame.canvas] = pieces(shown_ids, model.tokenizer, frame.healed)
        shown: list[str | None] = [lead] * bool(lead)
        shown += [piece for number in sorted(canvases) for piece in canvases[number]]
        server.later(server.protocol.notify, "talaria/step", {**head, "pieces": shown})

    return watch


async def next_candidate(server: Server, uri: str) -> str | None:
    """Put the next of the middles where the last fill was written; that text."""
    file = server.files.get(uri)
    if file is None or not server.offers(file):
        server.answer_user("no candidate: the file is not open, excluded, or Talaria is off")
        return None
    async with file.writing:
        filled = file.filled
        if filled is None:
            server.answer_user("nothing was filled in this file yet")
            return None
        if file.document.text != filled.prefix + filled.text + filled.suffix:
            server.answer_user("the file was changed since it was filled; ask again")
            return None
        if len(filled.texts) == 1:
            server.answer_user("there is no other candidate")
            return None
        start, end = len(filled.prefix), len(filled.prefix) + len(filled.text)
        turned = filled.turned()
        title = f"candidate {turned.place + 1} of {len(turned.texts)}"
        if not await write(server, file, start, end, turned.text, title):
            return None
        file.filled = turned
        return turned.text


async def accept(
    server: Server, uri: str, part: Literal["word", "line"], on_screen: object = None
) -> str | None:
    """Put the next word or line of what is shown into the document, for editors that cannot.

    Of several that are shown, `on_screen` says which one the user sees; without it, it is
    the first. None, and nothing told, where the editor does not take it.
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
        return text if await write(server, file, place, place, text, title, told=False) else None


def accepted(server: Server, uri: str, number: object) -> None:
    """The editor says that a suggestion was accepted, if its text did not say so already."""
    file = server.files.get(uri)
    if file and file.inline.shown and file.inline.shown.id == number:
        server.count(file, file.inline.accept())


async def show_trace(server: Server, uri: str) -> str | None:
    """Show how the model's last answer for a document came about; the page's address."""
    file, engines = server.files.get(uri), server.engines
    if file is None or file.last is None or engines is None:
        server.answer_user("the embedded model has answered nothing in this file yet")
        return None
    found, prefix, suffix = file.last
    model = await engines.model()

    def written() -> str:
        from talaria.coder.trace import page

        with tempfile.NamedTemporaryFile(
            "w", prefix="talaria-trace-", suffix=".html", delete=False, encoding="utf-8"
        ) as out:
            server.pages.append(Path(out.name))
            out.write(page(found, model, prefix, suffix))
        return Path(out.name).as_uri()

    address = await asyncio.to_thread(written)
    window = server.client_capabilities.window
    if window and window.show_document and window.show_document.support:
        await server.window_show_document_async(
            types.ShowDocumentParams(address, external=True, take_focus=True)
        )
    else:
        server.answer_user(f"the trace is at {address}")
    return address


async def write(
    server: Server,
    file: OpenFile,
    start: int,
    end: int,
    text: str,
    title: str,
    told: bool = True,
) -> bool:
    """Have the editor put a text into just this version of a document; whether it did.

    If it did, the document is the new one by then, unless the editor is slow to say so.
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
    asked = server.workspace_apply_edit_async(
        types.ApplyWorkspaceEditParams(edits, f"Talaria: {title}")
    )
    try:
        result = await asyncio.wait_for(asked, UNANSWERED)
    except TimeoutError:  # other commands wait
        log.warning("the editor did not answer to an edit of %s", document.uri)
        return False
    if not result.applied and told:
        why = result.failure_reason or "it gave no reason"
        server.answer_user(f"the editor did not take the edit: {why}")
    for _ in range(PATIENCE if result.applied else 0):
        if document.revision != revision:
            break
        await asyncio.sleep(0.01)
    return bool(result.applied)
