"""Suggestions while somebody types: grey text, or items of a list of completions.

What an answer is about is read off the document before the first `await`. If the document
is another one when the answer is there, it is kept for later and not given: typed along, it
may still fit.
"""

from __future__ import annotations

import asyncio
import time

from lsprotocol import types

from coder.syntax import judge
from lsp.documents import plain
from lsp.engines import Question
from lsp.filters import tidy
from lsp.inline import Suggestion, distinct
from lsp.server import OpenFile, Server
from lsp.silence import before_asking, before_showing

PYTHON = "python"


async def inline_completion(
    server: Server, params: types.InlineCompletionParams
) -> list[types.InlineCompletionItem] | None:
    """Grey text at the cursor: one item that comes by itself, several that were asked for."""
    file = server.files.get(params.text_document.uri)
    if file is None or not server.offers(file):
        return None
    began, revision = time.monotonic(), file.document.revision
    invoked = params.context.trigger_kind == types.InlineCompletionTriggerKind.Invoked
    chosen = params.context.selected_completion_info
    place = types.Range(params.position, params.position)
    prefix, suffix = file.document.cut(params.position)
    lead = ""
    if chosen:
        # What the list of completions would insert is taken for granted.
        place, lead = chosen.range, plain(chosen.text)
        prefix = file.document.cut(place.start)[0] + lead
        suffix = file.document.cut(place.end)[1]
    found = await suggest(server, file, prefix, suffix, invoked=invoked)
    if found is None or file.document.revision != revision:
        return None
    texts = found.texts[: server.options.candidates if invoked else 1]
    number = show(server, file, Suggestion(prefix, suffix, texts, 1.0), invoked, began)
    accepted = types.Command("Accepted", "talaria.accepted", arguments=[file.document.uri, number])
    return [
        types.InlineCompletionItem(insert_text=lead + text, range=place, command=accepted)
        for text in texts
    ]


async def completion(server: Server, params: types.CompletionParams) -> types.CompletionList | None:
    """The same as an item of a list, for editors that know no inline completion."""
    file = server.files.get(params.text_document.uri)
    if file is None or not server.offers(file):
        return None
    began, revision = time.monotonic(), file.document.revision
    prefix, suffix = file.document.cut(params.position)
    found = await suggest(server, file, prefix, suffix, invoked=False)
    items = []
    if found and file.document.revision == revision:
        text = found.texts[0]
        show(server, file, Suggestion(prefix, suffix, (text,), 1.0), False, began)
        items.append(completion_item(text, params.position))
    return types.CompletionList(is_incomplete=True, items=items)


def completion_item(text: str, position: types.Position) -> types.CompletionItem:
    """A suggestion as an item: its first line as the label, all of it beside it."""
    line, _, more = text.strip().partition("\n")
    return types.CompletionItem(
        label=line + (" …" if more else ""),
        kind=types.CompletionItemKind.Snippet,
        detail="Talaria",
        documentation=types.MarkupContent(types.MarkupKind.Markdown, f"```python\n{text}\n```"),
        filter_text=text,
        sort_text="~",  # behind what a language's own server knows
        insert_text_format=types.InsertTextFormat.PlainText,
        text_edit=types.TextEdit(types.Range(position, position), text),
    )


async def prefetch(server: Server, uri: str, prefix: str, suffix: str) -> None:
    """Ask what comes behind a suggestion that was accepted, before the editor does."""
    file = server.files.get(uri)
    if file and server.offers(file):
        await suggest(server, file, prefix, suffix, invoked=False, ahead=True)


async def suggest(
    server: Server,
    file: OpenFile,
    prefix: str,
    suffix: str,
    *,
    invoked: bool,
    ahead: bool = False,
) -> Suggestion | None:
    """What may stand at a place; None where silence is better, or the text has moved on.

    One that is asked for `ahead` waits for no key.
    """
    options, engines, document = server.options, server.engines, file.document
    known = file.inline.remembered(prefix, suffix)
    if known and (known.whole or not invoked):
        return known if known.texts else None
    if engines is None:
        return None
    if not invoked and (
        engines.state != "ready"
        or document.language not in options.languages
        or before_asking(
            *(prefix, suffix),
            strings=options.strings,
            comments=options.comments,
            dismissed=file.inline.was_dismissed(prefix, suffix, ""),
        )
    ):
        return None
    file.asked += 1
    number, revision = file.asked, document.revision

    def moved_on() -> bool:
        return (number, revision) != (file.asked, document.revision)

    wait = file.rhythm.wait() if options.debounce_ms is None else options.debounce_ms / 1000
    if wait and not invoked and not ahead:
        await asyncio.sleep(wait)
        if moved_on():
            return None
    began = time.monotonic()
    question = Question(
        *(document.uri, prefix, suffix, file.files if options.related_files else ()),
        count=options.candidates if invoked else 1,
        max_tokens=options.max_tokens,
        until=options.until,
        check_syntax=document.language == PYTHON,
        seconds=(options.fill_deadline_ms if invoked else options.deadline_ms) / 1000,
    )
    answer = await server.ask(file, question)
    if answer is None:
        return None
    file.rhythm.answered(time.monotonic() - began)
    least = 0.0 if invoked else options.least_confidence
    texts = [
        text
        for text in (tidied(each, prefix, suffix, document.language) for each in answer.texts)
        if not before_showing(text, prefix, suffix, answer.confidence, least=least)
        and (invoked or not file.inline.was_dismissed(prefix, suffix, text))
    ]
    found = Suggestion(prefix, suffix, distinct(texts, question.count), answer.confidence, invoked)
    # What a deadline cut short is not the last word on a place.
    if answer.found is None or answer.found.best.stopped != "deadline":
        file.inline.remember(found)
    server.look_around(file, len(prefix))
    return found if texts and not moved_on() else None


def tidied(text: str, prefix: str, suffix: str, language: str) -> str:
    """A middle as it may be offered; nothing where tidying it broke it."""
    tidy_text = tidy(text, prefix, suffix)
    if tidy_text in ("", text) or language != PYTHON:
        return tidy_text
    return tidy_text if judge(prefix, tidy_text, suffix).clean else ""


def show(
    server: Server, file: OpenFile, suggestion: Suggestion, invoked: bool, began: float
) -> int:
    """A suggestion is on the screen: its number. It is counted, and what became of the former."""
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
