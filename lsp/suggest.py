"""Suggestions while the user types: ghost text, or items of a completion list.

Handlers read the document before their first `await`. If the document has changed when the answer
arrives, the answer is cached and not shown: after more typing it may still fit.
"""

from __future__ import annotations

import asyncio
import re
import time
from dataclasses import replace
from typing import TYPE_CHECKING

from lsprotocol import types

from talaria.coder.guard import withheld
from talaria.coder.request import Request
from talaria.coder.syntax.judge import Surroundings
from talaria.lsp.documents import plain
from talaria.lsp.engines import Middles
from talaria.lsp.extent import certainty, on_screen, sure_part, until_of_typing
from talaria.lsp.filters import tidy
from talaria.lsp.inline import Computing, InlineSuggestion, distinct
from talaria.lsp.options import ServerOptions
from talaria.lsp.server import PYTHON, OpenFile, Superseded, TalariaServer
from talaria.lsp.silence import before_asking, before_showing

if TYPE_CHECKING:
    from talaria.coder.checkpoint import Checkpoint
    from talaria.coder.results import Frame

SURE = 0.7  # confidence of what is offered soon after the user has typed against a suggestion


async def inline_completion(
    server: TalariaServer, params: types.InlineCompletionParams
) -> list[types.InlineCompletionItem] | None:
    """Ghost text at the cursor: one item if automatic, several if invoked by hand."""
    file = server.files.get(params.text_document.uri)
    invoked = params.context.trigger_kind == types.InlineCompletionTriggerKind.Invoked
    if file is None or (why := server.silent_because(file)):
        if file and invoked:
            server.answer_user(f"nothing to suggest: {why}")
        return None
    began, revision = time.monotonic(), file.document.revision
    chosen = params.context.selected_completion_info
    prefix, suffix = file.document.cut(params.position)
    # The position clamped to the document.
    place, lead = file.document.range(len(prefix), len(prefix)), ""
    if chosen:
        # Assume that the selected item of the completion list is inserted.
        place, lead = chosen.range, chosen.text
        prefix = file.document.cut(place.start)[0] + plain(lead)
        suffix = file.document.cut(place.end)[1]
    found = await suggest(server, file, prefix, suffix, invoked=invoked)
    if file.document.revision != revision:
        return None
    if found and not invoked:
        found = file.inline.without_rejected(found)
    if found is None or not server.offers(file):
        shown = file.inline.shown
        if shown and (shown.prefix, shown.suffix) != (prefix, suffix):
            server.count(file, file.inline.end())  # the cursor has left it
        return None
    texts = found.texts[: server.options.candidates if invoked else 1]
    number = show(server, file, replace(found, texts=texts), invoked, began)
    accepted = types.Command("Accepted", "talaria.accepted", arguments=[file.document.uri, number])
    return [
        types.InlineCompletionItem(insert_text=lead + text, range=place, command=accepted)
        for text in texts
    ]


async def completion(
    server: TalariaServer, params: types.CompletionParams
) -> types.CompletionList | None:
    """The same as an item of a completion list, for editors without inline completion."""
    file = server.files.get(params.text_document.uri)
    if file is None or not server.offers(file):
        return None
    began, revision = time.monotonic(), file.document.revision
    prefix, suffix = file.document.cut(params.position)
    found = await suggest(server, file, prefix, suffix, invoked=False)
    found = found and file.inline.without_rejected(found)
    items = []
    if found and file.document.revision == revision and server.offers(file):
        text = found.texts[0]
        show(server, file, replace(found, texts=(text,)), False, began)
        known = server.client_capabilities.text_document
        item = known.completion.completion_item if known and known.completion else None
        items.append(completion_item(file, prefix, text, item))
    return types.CompletionList(is_incomplete=True, items=items)


def completion_item(
    file: OpenFile, prefix: str, text: str, known: types.ClientCompletionItemOptions | None
) -> types.CompletionItem:
    """A suggestion as a completion item: its first line as the label, all of it as documentation.

    It starts with the word before the cursor, which editors filter by. `known` are the editor's
    capabilities for items.
    """
    rich = known and types.MarkupKind.Markdown in (known.documentation_format or ())
    modes = known.insert_text_mode_support if known else None
    as_is = modes and types.InsertTextMode.AsIs in modes.value_set
    start = len(prefix) - len(prefix.rpartition("\n")[2])
    start += next(re.finditer(r"\w*\Z", prefix[start:])).start()
    place, text = file.document.range(start, len(prefix)), prefix[start:] + text
    line, _, more = text.strip().partition("\n")
    return types.CompletionItem(
        label=line + (" …" if more else ""),
        kind=types.CompletionItemKind.Text,  # a snippet would give `$` and `}` a meaning
        detail="Talaria",
        documentation=types.MarkupContent(types.MarkupKind.Markdown, f"```python\n{text}\n```")
        if rich
        else text,
        filter_text=text,
        sort_text="~",  # after the items of the language's own server
        insert_text_format=types.InsertTextFormat.PlainText,
        # Its lines already have their indentation.
        insert_text_mode=types.InsertTextMode.AsIs if as_is else None,
        text_edit=types.TextEdit(place, text),
    )


async def prefetch(server: TalariaServer, uri: str, prefix: str, suffix: str) -> None:
    """Compute what follows an accepted suggestion before the editor asks."""
    file = server.files.get(uri)
    if file and server.offers(file):
        await suggest(server, file, prefix, suffix, invoked=False, ahead=True)


async def suggest(
    server: TalariaServer,
    file: OpenFile,
    prefix: str,
    suffix: str,
    *,
    invoked: bool,
    ahead: bool = False,
) -> InlineSuggestion | None:
    """A suggestion between two texts; None if there is none, or the document has changed.

    One computed `ahead` of the editor's request is not debounced.
    """
    options, engines = server.options, server.engines
    dismissed = not invoked and file.inline.dismissed_at(prefix, suffix)
    cached = None if dismissed else file.inline.cached(prefix, suffix)
    if cached and (cached.invoked or not invoked):
        return cached if cached.texts else None
    if engines is None:
        return None
    if not invoked and (
        not (engines.available or engines.state == "loading")
        or file.document.language not in options.languages
        or before_asking(
            *(prefix, suffix),
            strings=options.strings,
            comments=options.comments,
            dismissed=dismissed,
        )
    ):
        return None
    while (running := file.computing) and running.serves(prefix, suffix, invoked):
        # Share one computation between ghost text, the completion list, the prefetch and the keys
        # that are typed meanwhile, if they are those of the suggestion.
        await running.go_on()
        if running.task.done() and not running.task.cancelled():
            if running.prefix == prefix:
                return running.task.result()
            if cached := file.inline.cached(prefix, suffix):
                return cached if cached.texts else None
    # A task of its own goes on when the editor cancels the request, as it does at the next key.
    task = server.spawn(compute(server, file, prefix, suffix, invoked, ahead))
    file.computing = Computing(prefix, suffix, invoked, task)
    try:
        await asyncio.wait([task])
    except asyncio.CancelledError:
        if invoked:
            task.cancel()
        raise
    return None if task.cancelled() else task.result()


async def compute(
    server: TalariaServer, file: OpenFile, prefix: str, suffix: str, invoked: bool, ahead: bool
) -> InlineSuggestion | None:
    """Debounce, ask the engines, filter the answer and cache it."""
    own, options, document = file.computing, server.options, file.document
    file.requests += 1
    number, revision = file.requests, document.revision
    wait = (options.debounce_ms or 0) / 1000
    if options.debounce_ms is None and options.service:
        wait = file.rhythm.wait()  # a model here does not have to begin anew at the next key
    if wait and not invoked and not ahead:
        await asyncio.sleep(wait)
        if (number, revision) != (file.requests, document.revision):
            return None
        if options != server.options or not server.offers(file):
            return None
    began = time.monotonic()
    request = Request(
        prefix,
        suffix,
        options.decoding(
            candidates=options.candidates if invoked else 1,
            max_tokens=options.max_tokens,
            until=options.until
            or (None if invoked else until_of_typing(prefix, suffix, accepted=ahead)),
            check_syntax=document.language == PYTHON,
            abstain=not invoked,
        ),
        files=file.excerpts if options.related_files else (),
        cell=document.cell,
        document=document.uri,
        seconds=seconds_of(options, invoked),
    )

    def show_text(frame: Frame, model: Checkpoint) -> None:
        if own and frame.canvas == 0:
            server.later(own.write, frame.text(0, model.tokenizer))

    try:
        answer = await server.ask(file, request, None if invoked else show_text, typing=not invoked)
    except Superseded:
        return None
    if answer is None or options != server.options or not server.offers(file):
        return None
    file.rhythm.answered(time.monotonic() - began)
    least, confidence = 0.0, answer.confidence
    checked = answer.infill is not None and request.options.check_syntax
    offered = [filtered(t, request, document.language, checked) for t in answer.texts]
    if offered and not invoked:
        least = options.least_confidence
        if file.inline.disturbed:
            least = max(least, SURE)
        python = document.language == PYTHON
        offered[0], confidence = shortened(answer, offered[0], request, least, python=python)
    texts = [
        on_screen(text)
        for text in offered
        if not before_showing(text, prefix, suffix, confidence, least=least)
        and (invoked or not file.inline.was_dismissed(prefix, suffix, text))
    ]
    shown = distinct(texts, request.options.candidates)
    found = InlineSuggestion(prefix, suffix, shown, invoked, confidence)
    # With more time, an answer cut short by its deadline could be better, so do not cache it.
    if answer.infill is None or answer.infill.best.stopped != "deadline":
        file.inline.store(found)
    server.choose_excerpts(file, len(prefix))
    return found if texts else None


def shortened(
    answer: Middles, text: str, request: Request, least: float, *, python: bool = True
) -> tuple[str, float]:
    """The part of a filtered middle that the model is sure enough of, and how sure it is.

    All of it where it is not known how sure the model is of a part.
    """
    infill, model = answer.infill, answer.model
    if infill is None or model is None or not infill.best.text.startswith(text):
        return text, answer.confidence
    sure = certainty(infill, infill.best, model.tokenizer, request.prefix)
    prefix = request.prefix if python else None
    ended = infill.best.stopped != "deadline"
    part, confidence = sure_part(text, sure, answer.confidence, least, prefix, ended=ended)
    around = Surroundings(request.prefix, request.suffix, cell=request.cell)
    # Without a header whose body is cut off, unless it is all there is. A single line is not
    # judged: what completes it is yet to come.
    while part != text and "\n" in part and not around.judge(part).clean:
        lines = part.rpartition("\n")[0] + "\n"
        part, confidence = sure_part(lines, sure, 0.0, least, prefix)
    return part, confidence


def seconds_of(options: ServerOptions, invoked: bool) -> float | None:
    """The deadline of a request; None if the model that answers has one."""
    if invoked:
        return options.fill_deadline_ms / 1000
    if options.deadline_ms is not None:
        return options.deadline_ms / 1000
    return options.endpoint_timeout_ms / 1000 if options.service else None


def filtered(text: str, request: Request, language: str, checked: bool) -> str:
    """The part of a middle to offer; empty if it would add a syntax error, or be in the way.

    `checked` says that the unfiltered middle is known to add none.
    """
    kept = tidy(text, request.prefix, request.suffix)
    if not kept or language != PYTHON or (checked and kept == text):
        return kept
    around = Surroundings(request.prefix, request.suffix, cell=request.cell)
    return kept if around.judge(kept).sound and withheld(around, kept) is None else ""


def show(
    server: TalariaServer, file: OpenFile, suggestion: InlineSuggestion, invoked: bool, began: float
) -> int:
    """Note that a suggestion is on the screen, and the outcome of the previous one; its id."""
    trigger = "invoked" if invoked else "automatic"
    number, ended, new = file.inline.show(
        suggestion.prefix, suggestion.suffix, suggestion.texts, trigger
    )
    server.count(file, ended)
    if new and server.options.usage:
        server.usage.record(
            "shown",
            language=file.document.language,
            trigger=trigger,
            characters=len(suggestion.texts[0]),
            milliseconds=1000 * (time.monotonic() - began),
        )
    return number
