"""Suggestions while somebody types: grey text, or items of a list of completions.

What an answer is about is read off the document before the first `await`. If the document
is another one when the answer is there, it is kept for later and not given: typed along, it
may still fit.
"""

from __future__ import annotations

import asyncio
import re
import time
from dataclasses import replace

from lsprotocol import types

from talaria.coder.syntax.judge import judge
from talaria.lsp.documents import plain
from talaria.lsp.engines import Question
from talaria.lsp.filters import tidy
from talaria.lsp.inline import Suggestion, distinct
from talaria.lsp.server import PYTHON, OpenFile, Server
from talaria.lsp.silence import before_asking, before_showing

SOON = 300  # milliseconds after which the embedded model's answer would come too late


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
    prefix, suffix = file.document.cut(params.position)
    # Of the document, wherever the position was.
    place, lead = file.document.range(len(prefix), len(prefix)), ""
    if chosen:
        # What the list of completions would insert is taken for granted.
        place, lead = chosen.range, chosen.text
        prefix = file.document.cut(place.start)[0] + plain(lead)
        suffix = file.document.cut(place.end)[1]
    found = await suggest(server, file, prefix, suffix, invoked=invoked)
    if file.document.revision != revision:
        return None
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


async def completion(server: Server, params: types.CompletionParams) -> types.CompletionList | None:
    """The same as an item of a list, for editors that know no inline completion."""
    file = server.files.get(params.text_document.uri)
    if file is None or not server.offers(file):
        return None
    began, revision = time.monotonic(), file.document.revision
    prefix, suffix = file.document.cut(params.position)
    found = await suggest(server, file, prefix, suffix, invoked=False)
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
    """A suggestion as an item: its first line as the label, all of it beside it.

    It begins with the word before the cursor, by which editors choose among items. `known`
    is what the editor says that it can do with one.
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
        kind=types.CompletionItemKind.Text,  # as a snippet, signs in it would mean something
        detail="Talaria",
        documentation=types.MarkupContent(types.MarkupKind.Markdown, f"```python\n{text}\n```")
        if rich
        else text,
        filter_text=text,
        sort_text="~",  # behind what a language's own server knows
        insert_text_format=types.InsertTextFormat.PlainText,
        # Its lines are indented already.
        insert_text_mode=types.InsertTextMode.AsIs if as_is else None,
        text_edit=types.TextEdit(place, text),
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
    options, engines = server.options, server.engines
    dismissed = not invoked and file.inline.dismissed_at(prefix, suffix)
    known = None if dismissed else file.inline.remembered(prefix, suffix)
    if known and (known.whole or not invoked):
        return known if known.texts else None
    if engines is None:
        return None
    if not invoked and (
        not engines.answers
        or file.document.language not in options.languages
        or before_asking(
            *(prefix, suffix),
            strings=options.strings,
            comments=options.comments,
            dismissed=dismissed,
        )
    ):
        return None
    place = prefix, suffix, invoked
    while file.asking and file.asking[0] in (place, (prefix, suffix, True)):
        # Asked already, as a list of completions is beside grey text, or what was prefetched.
        # What was asked for by hand answers what comes by itself too.
        found = file.asking[1]
        await asyncio.wait([found])
        if not found.cancelled():
            return found.result()
    answer: asyncio.Future[Suggestion | None] = asyncio.get_running_loop().create_future()
    file.asking = place, answer
    try:
        answer.set_result(await ask(server, file, prefix, suffix, invoked, ahead))
        return answer.result()
    finally:
        answer.cancel()
        if file.asking and file.asking[1] is answer:
            file.asking = None


async def ask(
    server: Server, file: OpenFile, prefix: str, suffix: str, invoked: bool, ahead: bool
) -> Suggestion | None:
    """Ask the model or the service, once the typing lets it; what it says is remembered."""
    options, document = server.options, file.document
    file.asked += 1
    number, revision = file.asked, document.revision
    wait = file.rhythm.wait() if options.debounce_ms is None else options.debounce_ms / 1000
    if wait and not invoked and not ahead:
        await asyncio.sleep(wait)
        if (number, revision) != (file.asked, document.revision):
            return None
        if options != server.options or not server.offers(file):
            return None
    began = time.monotonic()
    # A service far away has its own time; to show nothing of it would be no use.
    own = options.endpoint_timeout_ms if options.endpoint else SOON
    deadline = own if options.deadline_ms is None else options.deadline_ms
    question = Question(
        *(document.uri, prefix, suffix, file.files if options.related_files else ()),
        count=options.candidates if invoked else 1,
        max_tokens=options.max_tokens,
        until=options.until,
        check_syntax=document.language == PYTHON,
        seconds=(options.fill_deadline_ms if invoked else deadline) / 1000,
    )
    answer = await server.ask(file, question)
    if answer is None or options != server.options or not server.offers(file):
        return None  # or it is no longer wanted
    file.rhythm.answered(time.monotonic() - began)
    least = 0.0 if invoked else options.least_confidence
    judged = answer.found is not None and question.check_syntax
    texts = [
        text
        for text in (
            tidied(each, prefix, suffix, document.language, judged) for each in answer.texts
        )
        if not before_showing(text, prefix, suffix, answer.confidence, least=least)
        and (invoked or not file.inline.was_dismissed(prefix, suffix, text))
    ]
    found = Suggestion(prefix, suffix, distinct(texts, question.count), invoked)
    # What a deadline cut short is not the last word on a place.
    if answer.found is None or answer.found.best.stopped != "deadline":
        file.inline.remember(found)
    server.look_around(file, len(prefix))
    return found if texts else None


def tidied(text: str, prefix: str, suffix: str, language: str, judged: bool) -> str:
    """A middle as it may be offered; nothing where it breaks the text, or tidying it did.

    `judged` says that the middle itself is known to break nothing.
    """
    tidy_text = tidy(text, prefix, suffix)
    if not tidy_text or language != PYTHON or (judged and tidy_text == text):
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
