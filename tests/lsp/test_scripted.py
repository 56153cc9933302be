"""What the language server does around a scripted endpoint."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from talaria.coder.source import Piece
from talaria.lsp.engines import Engines
from talaria.lsp.features import register
from talaria.lsp.inline import InlineSuggestion
from talaria.lsp.options import ServerOptions
from talaria.lsp.server import TalariaServer
from talaria.lsp.usage import Usage

URI = "file:///project/scripted.py"
HOLE = "def f(a):\n    pass\n"
VERSIONED = {
    "workspace": {"workspaceEdit": {"documentChanges": True}},
    "textDocument": {"inlineCompletion": {}},
}


class ScriptedEngines(Engines):
    """Engines without a model, whose endpoint gives the editor's scripted answers."""

    editor: InProcessEditor

    def _load(self) -> None:
        self._endpoint = EditorEndpoint(self.editor)  # type: ignore[assignment]
        self._set_state("ready", "scripted")

    async def close(self) -> None:
        """Close, which takes a while."""
        await super().close()
        await asyncio.sleep(self.editor.seconds)


class EditorEndpoint:
    """An endpoint with the answers that an editor has scripted."""

    waiting = 0.0

    def __init__(self, editor: InProcessEditor) -> None:
        self.editor = editor

    async def fill(
        self, prefix: str, suffix: str, max_tokens: int, count: int, *_: object
    ) -> list[str]:
        """The middles."""
        self.editor.asked.append((prefix, suffix))
        await asyncio.sleep(self.editor.seconds)
        return list(self.editor.answer(prefix)[:count])

    async def close(self) -> None:
        """Nothing is open."""


class InProcessEditor:
    """An editor in the server's own process."""

    def __init__(self, folder: Path) -> None:
        self.server = TalariaServer(ServerOptions(), Usage(folder))
        register(self.server)
        self.server.protocol.set_writer(self, include_headers=False)
        self.answer: Callable[[str], tuple[str, ...]] = lambda prefix: ("value",)
        self.seconds = 0.0  # until an answer
        self.asked: list[tuple[str, str]] = []  # prefix and suffix
        self.text, self.version, self.number = "", 0, 0
        self.answers: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self.messages: list[str] = []
        self.edits: list[dict[str, Any]] = []
        self.slow = 0.0  # to apply an edit
        self.answers_first = False  # before it sends the change
        self.encoding = "utf-16"

    def write(self, data: bytes) -> None:
        """A message from the server."""
        message = json.loads(data)
        if "method" not in message:
            self.answers.pop(message["id"]).set_result(message)
        elif message["method"] == "window/showMessage":
            self.messages.append(message["params"]["message"])
        elif message["method"] == "workspace/applyEdit":
            self.edits.append(message["params"]["edit"])
            self.server.spawn(self.apply(message))

    def close(self) -> None:
        """Close the stream."""

    async def tell(self, method: str, **params: Any) -> None:
        """Send a notification."""
        await self.server.protocol.receive(
            json.dumps({"jsonrpc": "2.0", "method": method, "params": params})
        )

    async def request(self, method: str, params: object) -> Any:
        """Send a request; its result."""
        self.number += 1
        answer = self.answers[self.number] = asyncio.get_running_loop().create_future()
        message = {"jsonrpc": "2.0", "id": self.number, "method": method, "params": params}
        await self.server.protocol.receive(json.dumps(message))
        found = await answer
        assert "error" not in found, found
        return found["result"]

    async def begin(self, options: dict[str, Any], capabilities: dict[str, Any]) -> None:
        """Start the session."""
        calm = {"debounce_ms": 0, "related_files": False}
        await self.request(
            "initialize",
            {
                "capabilities": capabilities,
                "processId": None,
                "rootUri": "file:///work",
                "initializationOptions": calm | options,
            },
        )
        await self.tell("initialized")
        while not (self.server.engines and self.server.engines.state == "ready"):
            await asyncio.sleep(0.001)

    async def open(self, text: str, language: str = "python", uri: str = URI) -> None:
        """Open a document."""
        self.text, self.version = text, 1
        item = {"uri": uri, "languageId": language, "version": 1, "text": text}
        await self.tell("textDocument/didOpen", textDocument=item)

    async def change(self, *changes: dict[str, Any], **document: Any) -> None:
        """Send a change."""
        await self.tell(
            "textDocument/didChange",
            textDocument={"uri": URI, **document},
            contentChanges=list(changes),
        )

    async def edit(self, start: int, end: int, new: str) -> None:
        """Replace a part of the document."""
        place = {"start": self.position(start), "end": self.position(end)}
        self.text = self.text[:start] + new + self.text[end:]
        self.version += 1
        await self.change({"range": place, "text": new}, version=self.version)

    def position(self, offset: int) -> dict[str, int]:
        """The position of an offset."""
        before = self.text[:offset]
        line = before.rpartition("\n")[2]
        width = {"utf-8": 1, "utf-16": 2, "utf-32": 4}[self.encoding]
        data = line.encode(self.encoding + "-le" * (width > 1))
        return {"line": before.count("\n"), "character": len(data) // width}

    def offset(self, position: dict[str, int]) -> int:
        """The offset of a position."""
        return next(n for n in range(len(self.text) + 1) if self.position(n) == position)

    async def apply(self, message: dict[str, Any]) -> None:
        """Apply an edit if its version is the current one."""
        await asyncio.sleep(self.slow)
        edit, applied = message["params"]["edit"], True
        if "documentChanges" in edit:
            [change] = edit["documentChanges"]
            edits = change["edits"]
            applied = change["textDocument"]["version"] == self.version
        else:
            [edits] = edit["changes"].values()
        answer = {"jsonrpc": "2.0", "id": message["id"], "result": {"applied": applied}}
        if self.answers_first:
            await self.server.protocol.receive(json.dumps(answer))
            await asyncio.sleep(0.02)
        if applied:
            [each] = edits
            start, end = (self.offset(each["range"][side]) for side in ("start", "end"))
            await self.edit(start, end, each["newText"])
        if not self.answers_first:
            await self.server.protocol.receive(json.dumps(answer))

    async def items(self, offset: int, invoked: bool = False, **context: Any) -> Any:
        """Request ghost text; the items, or None."""
        return await self.request(
            "textDocument/inlineCompletion",
            {
                "textDocument": {"uri": URI},
                "position": self.position(offset),
                "context": {"triggerKind": 1 if invoked else 2, **context},
            },
        )

    async def ghost(self, offset: int, invoked: bool = False) -> list[str]:
        """Request ghost text; its texts."""
        return [item["insertText"] for item in await self.items(offset, invoked) or ()]

    async def command(self, name: str, *arguments: object) -> Any:
        """Execute a command."""
        params = {"command": f"talaria.{name}", "arguments": list(arguments)}
        return await self.request("workspace/executeCommand", params)

    async def fill_hole(self, text: str = HOLE) -> Any:
        """Fill the placeholder of the open document."""
        return await self.command(
            "fillHere", {"uri": URI, "position": self.position(text.index("pass"))}
        )

    async def set(self, **settings: Any) -> None:
        """Change the settings."""
        await self.tell("workspace/didChangeConfiguration", settings={"talaria": settings})

    def counts(self, event: str) -> int:
        """How often an event was counted."""
        days = self.server.usage._pending.values()
        return sum(counts[event] for pairs in days for counts in pairs.values())


Check = Callable[[InProcessEditor], Coroutine[Any, Any, None]]


@pytest.fixture
def session(tmp_path: Path) -> Callable[..., None]:
    """A function that runs a session; the test is a coroutine that drives the editor."""

    def run(check: Check, capabilities: dict[str, Any] | None = None, **options: Any) -> None:
        async def whole() -> None:
            here = ScriptedEngines.editor = InProcessEditor(tmp_path)
            await here.begin(options, VERSIONED if capabilities is None else capabilities)
            await check(here)
            if not here.server.ended:
                here.seconds = 0
                await here.request("shutdown", None)

        with patch("talaria.lsp.server.Engines", ScriptedEngines):
            asyncio.run(asyncio.wait_for(whole(), 30))

    return run


def soon(work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
    """Start a coroutine in the background."""
    return asyncio.ensure_future(work)


# What commands write


REFUSED = {
    "broken": ("return (", "adds a syntax error ('return (')"),
    "without a body": ("for x in a:", "adds a syntax error ('for x in a:')"),
    "does not compile": ("nonlocal x", "adds a syntax error ('nonlocal x')"),
}


@pytest.mark.parametrize("command", ["fillFunction", "fillHere", "rewrite"])
@pytest.mark.parametrize(("middle", "reason"), REFUSED.values(), ids=REFUSED)
def test_a_refused_middle_is_not_written(
    session: Callable[..., None], middle: str, reason: str, command: str
) -> None:
    """The user gets the reason; all commands share one guard."""

    async def check(e: InProcessEditor) -> None:
        e.answer = lambda _: (middle, middle + "\n")
        await e.open(HOLE)
        start = HOLE.index("pass")
        place = {"start": e.position(start), "end": e.position(start + 4)}
        assert await e.command(command, {"uri": URI, "range": place}) is None
        assert e.text == HOLE
        assert not e.edits
        assert await e.command("nextCandidate", URI) is None
        assert reason in e.messages[0]
        assert e.messages[1:] == ["Talaria: nothing has been filled in this file yet"]

    session(check)


def test_a_refused_candidate_is_skipped(session: Callable[..., None]) -> None:
    """The next one is written, and `nextCandidate` never brings a refused one."""

    async def check(e: InProcessEditor) -> None:
        e.answer = lambda _: ("return (", "return 1", "for x in a:")
        await e.open(HOLE)
        assert await e.fill_hole() == "return 1"
        assert e.text == HOLE.replace("pass", "return 1")
        assert await e.command("nextCandidate", URI) is None
        assert e.text == HOLE.replace("pass", "return 1")
        assert e.messages == ["Talaria: there is no other candidate"]

    session(check)


@pytest.mark.parametrize("texts", [("",), ("pass",), (" \n", "pass \n")])
def test_a_middle_that_changes_nothing_is_not_written(
    session: Callable[..., None], texts: tuple[str, ...]
) -> None:
    """An empty one, or the text already in the file."""

    async def check(e: InProcessEditor) -> None:
        e.answer = lambda _: texts
        await e.open(HOLE)
        assert await e.fill_hole() is None
        assert not e.edits
        assert e.messages == ["Talaria: the model has nothing to offer here"]

    session(check)


@pytest.mark.parametrize("capabilities", [{}, VERSIONED], ids=["without versions", "with"])
@pytest.mark.parametrize("answers_first", [False, True])
def test_consecutive_commands(
    session: Callable[..., None], capabilities: dict[str, Any], answers_first: bool
) -> None:
    """Each starts from the text that the one before left, even if its change arrives late."""

    async def check(e: InProcessEditor) -> None:
        e.answers_first = answers_first
        e.slow = 0.01
        e.answer = lambda _: ("return 1", "return 22222222", "return 3")
        await e.open(HOLE)
        assert await e.fill_hole() == "return 1"
        turned = [soon(e.command("nextCandidate", URI)) for _ in range(2)]
        assert [await each for each in turned] == ["return 22222222", "return 3"]
        assert e.text == HOLE.replace("pass", "return 3")
        e.answer = lambda _: ("one(two, three)",)
        await e.open("a = \n")
        assert await e.ghost(4) == ["one(two, three)"]
        words = [soon(e.command("acceptWord", URI)) for _ in range(3)]
        assert [await each for each in words] == ["one", "(", "two"]
        assert e.text == "a = one(two\n"
        assert e.messages == []

    session(check, capabilities)


def test_a_rejected_word_is_not_reported(session: Callable[..., None]) -> None:
    """A key came first: there is no message and no edit."""

    async def check(e: InProcessEditor) -> None:
        await e.open("a = \n")
        assert await e.ghost(4) == ["value"]
        e.slow = 0.02
        word = soon(e.command("acceptWord", URI))
        await asyncio.sleep(0.01)
        await e.edit(4, 4, "x")
        assert await word is None
        assert e.text == "a = x\n"
        assert e.messages == []

    session(check)


def test_a_superseded_fill_is_silent(session: Callable[..., None]) -> None:
    """Asking twice gives one answer and no message."""

    async def check(e: InProcessEditor) -> None:
        e.seconds = 0.02
        e.answer = lambda _: ("return 1",)
        await e.open(HOLE)
        first = soon(e.fill_hole())
        await asyncio.sleep(0.01)
        assert await e.fill_hole() == "return 1"
        assert await first is None
        assert e.messages == []

    session(check)


def test_a_fill_supersedes_nothing_in_another_document(session: Callable[..., None]) -> None:
    """Even if the URIs look alike."""

    async def check(e: InProcessEditor) -> None:
        e.seconds = 0.02
        await e.open(HOLE, uri=URI + "#fill")
        await e.open(HOLE)
        filled = soon(e.fill_hole())
        await asyncio.sleep(0.01)
        place = {"uri": URI + "#fill"}
        item = {"textDocument": place, "position": {"line": 0, "character": 0}}
        await e.request("textDocument/inlineCompletion", item | {"context": {"triggerKind": 1}})
        assert await filled == "value"

    session(check)


def test_a_language_that_cannot_be_checked_is_not_written(session: Callable[..., None]) -> None:
    """The user gets the reason."""

    async def check(e: InProcessEditor) -> None:
        await e.open("x = ... # pass\n...\n", "cobol")
        place = {"uri": URI, "position": {"line": 1, "character": 0}}
        assert await e.command("fillHere", place) is None
        assert e.messages == ["Talaria: code in 'cobol' cannot be checked, only Python can"]
        assert not e.asked

    session(check)


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("prod.env", "this file is withheld from the model: the name 'prod.env' suggests secrets"),
        ("a_pb2.py", "this file is withheld from the model: the option exclude matches it"),
        ("a.py", "suggestions are switched off"),
    ],
)
def test_where_nothing_is_suggested_the_user_is_told_why(
    session: Callable[..., None], name: str, why: str
) -> None:
    """When asked by hand, for a suggestion or a command; never while typing."""

    async def check(e: InProcessEditor) -> None:
        uri = f"file:///project/{name}"
        await e.open(HOLE, uri=uri)
        if name == "a.py":
            await e.command("toggle")
        place = {"textDocument": {"uri": uri}, "position": {"line": 1, "character": 4}}
        method = "textDocument/inlineCompletion"
        assert await e.request(method, place | {"context": {"triggerKind": 2}}) is None
        assert e.messages == []
        assert await e.request(method, place | {"context": {"triggerKind": 1}}) is None
        assert await e.command("fillHere", {"uri": uri, "position": place["position"]}) is None
        assert e.messages == [
            f"Talaria: nothing to suggest: {why}",
            f"Talaria: nothing to fill: {why}",
        ]
        assert not e.asked

    session(check, exclude=["*_pb2.py"])


# Notebooks


@pytest.mark.parametrize(
    ("uri", "cell"),
    [
        ("vscode-notebook-cell:/project/a.ipynb#W3sZmlsZQ%3D%3D", True),
        ("vscode-notebook-cell://ssh-remote%2Bhost/project/a.ipynb#X12", True),
        ("file:///project/.virtual_documents/a.ipynb", True),
        ("file:///project/%2Evirtual_documents/sub/a.ipynb", True),
        ("file:///project/a.py", False),
        ("file:///project/virtual_documents/a.py", False),
        ("untitled:Untitled-1", False),
    ],
)
@pytest.mark.parametrize(
    ("begun", "text"),
    [
        ("x = ", "await fetch(url)"),
        ("", "async for row in rows:\n    print(row)"),
        ("", "async with session() as s:\n    print(s)"),
    ],
)
def test_cells_of_notebooks_may_await_at_the_top(
    session: Callable[..., None], uri: str, cell: bool, begun: str, text: str
) -> None:
    """What is offered there and written; in a module, it is refused."""

    async def check(e: InProcessEditor) -> None:
        e.answer = lambda _: (text,)
        await e.open(begun + "\n", uri=uri)
        place = {"textDocument": {"uri": uri}, "position": e.position(len(begun))}
        found = await e.request(
            "textDocument/inlineCompletion", place | {"context": {"triggerKind": 2}}
        )
        assert [item["insertText"] for item in found or ()] == [text] * cell

    session(check)


# What the user types against


async def typed(e: InProcessEditor, offset: int, text: str) -> tuple[int, list[list[str]]]:
    """Type a text and ask after every key: the new offset, and what was shown after each."""
    shown = []
    for place, key in enumerate(text, offset):
        await e.edit(place, place, key)
        shown.append(await e.ghost(place + 1))
    return offset + len(text), shown


def test_typing_along_never_flickers(session: Callable[..., None]) -> None:
    """The rest stays although the model would say something else by now."""

    async def check(e: InProcessEditor) -> None:
        e.answer = lambda prefix: ("value + other" if prefix.endswith("= ") else "nonsense",)
        await e.open("a = \n")
        assert await e.ghost(4) == ["value + other"]
        _, shown = await typed(e, 4, "value + ")
        assert shown == [["value + other"[n:]] for n in range(1, 9)]
        # An answer that came late, to a request by hand in between, replaces nothing either.
        e.server.files[URI].inline.store(InlineSuggestion("a = value + ", "\n", ("thing",)))
        assert await e.ghost(12) == ["other"]
        assert await e.ghost(12, invoked=True) != ["other"]

    session(check)


def test_what_was_typed_against_is_not_offered_again(session: Callable[..., None]) -> None:
    """For fifteen keys, wherever it would come; other texts are, and by hand it is too."""

    async def check(e: InProcessEditor) -> None:
        e.answer = lambda prefix: ("some_value",)
        await e.open("a = \n")
        assert await e.ghost(4) == ["some_value"]
        offset, shown = await typed(e, 4, "x * y - z + 1-")
        assert len(shown) == 14
        assert not any(shown)
        offset, shown = await typed(e, offset, "x*")
        assert shown == [[], ["some_value"]]
        assert (await typed(e, offset, "+"))[1] == [[]]
        assert await e.ghost(offset + 1, invoked=True) == ["some_value"]

    session(check)


@pytest.mark.parametrize("wrong", ["some_value", "some_value + 1", "x = some_value", "some"])
def test_no_version_of_it_is_offered_again(session: Callable[..., None], wrong: str) -> None:
    """Neither longer nor shorter; after it was deleted again, neither."""

    async def check(e: InProcessEditor) -> None:
        e.answer = lambda prefix: ("some_value",)
        await e.open("a = \n")
        assert await e.ghost(4) == ["some_value"]
        e.answer = lambda prefix: (wrong,)
        assert (await typed(e, 4, "-"))[1] == [[]]
        await e.edit(4, 5, "")
        assert await e.ghost(4) == []
        e.answer = lambda prefix: ("another",)
        assert (await typed(e, 4, "+"))[1] == [["another"]]

    session(check)


def test_it_is_not_repeated_at_the_next_line(session: Callable[..., None]) -> None:
    """However long the line was; two lines further down, it may come."""

    async def check(e: InProcessEditor) -> None:
        e.answer = lambda prefix: ("run(it)" if prefix.endswith("\n") else "",)
        await e.open("a = 1\n")
        assert await e.ghost(6) == ["run(it)"]
        offset, _ = await typed(e, 6, "something = entirely + different")
        for expected in ([], [], ["run(it)"]):
            offset, shown = await typed(e, offset, "\n")
            assert shown == [expected]
            offset, _ = await typed(e, offset, "b" * 20)

    session(check)


# What is no longer wanted


def test_an_automatic_request_shares_an_invoked_answer(
    session: Callable[..., None],
) -> None:
    """It does not supersede it."""

    async def check(e: InProcessEditor) -> None:
        e.seconds = 0.02
        e.answer = lambda _: ("one", "two")
        await e.open("a = \n")
        by_hand = soon(e.ghost(4, invoked=True))
        await asyncio.sleep(0.01)
        assert await e.ghost(4) == ["one"]
        assert await by_hand == ["one", "two"]
        assert len(e.asked) == 1

    session(check)


def test_only_what_is_asked_by_hand_must_not_be_blank(session: Callable[..., None]) -> None:
    """Else the model may see nothing to add."""
    abstained = []
    ask = TalariaServer.ask

    async def watched(
        server: TalariaServer, file: Any, request: Any, *rest: Any, **more: Any
    ) -> Any:
        abstained.append(request.options.abstain)
        return await ask(server, file, request, *rest, **more)

    async def check(e: InProcessEditor) -> None:
        await e.open("a = \n")
        assert await e.ghost(4, invoked=True)
        await e.open("b = \n")
        assert await e.ghost(4)

    with patch.object(TalariaServer, "ask", watched):
        session(check)
    assert abstained == [False, True]


@pytest.mark.parametrize("how", ["shutdown", "model", "until", "toggle"])
def test_changes_during_the_debounce(session: Callable[..., None], how: str) -> None:
    """The request is answered with null, not an error, and the model is not asked."""

    async def check(e: InProcessEditor) -> None:
        e.seconds = 0.1
        await e.open("a = \n")
        asked = soon(e.items(4))
        await asyncio.sleep(0.01)
        if how == "shutdown":
            await e.request("shutdown", None)
        elif how == "toggle":
            await e.command("toggle")
        else:
            await e.set(**{how: "line"})
        assert await asked is None
        assert not e.asked

    session(check, debounce_ms=50)


@pytest.mark.parametrize("how", ["until", "exclude", "toggle"])
def test_an_unwanted_answer_is_dropped(session: Callable[..., None], how: str) -> None:
    """It is neither shown, written nor cached."""

    async def off(e: InProcessEditor) -> None:
        if how == "toggle":
            await e.command("toggle")
        else:
            await e.set(**{how: "line" if how == "until" else ["scripted.py"]})

    async def on(e: InProcessEditor) -> None:
        await (e.command("toggle") if how == "toggle" else e.set())

    async def check(e: InProcessEditor) -> None:
        e.answer = lambda _: ("return old",)
        await e.open(HOLE)
        for fills in (True, False):
            e.seconds = 0.03
            asked = soon(e.fill_hole() if fills else e.items(len(HOLE) - 1, invoked=True))
            await asyncio.sleep(0.01)
            await off(e)
            assert await asked is None
            await on(e)
        assert e.text == HOLE
        assert e.counts("shown") == 0
        assert len(e.messages) == 1
        e.answer = lambda _: ("; return new",)
        assert await e.ghost(len(HOLE) - 1) == ["; return new"]

    session(check)


def test_an_excluded_file_is_no_longer_read(session: Callable[..., None]) -> None:
    """Excerpts that were being chosen when it was excluded are dropped too."""

    async def check(e: InProcessEditor) -> None:
        await e.open("a = \n")
        file = e.server.files[URI]
        found = (Piece("other.py", "secret"),)

        def pieces(*_: object) -> tuple[Piece, ...]:
            time.sleep(0.02)
            return found

        async def look() -> None:
            while e.server._looking:
                await asyncio.sleep(0.001)

        await look()
        with patch.object(e.server.neighbours, "pieces", pieces):
            e.server.choose_excerpts(file, 0)
            await asyncio.sleep(0.001)
            await look()
            assert [piece.text for piece in file.excerpts] == ["secret"]
            e.server.choose_excerpts(file, 0)
            await asyncio.sleep(0.01)
            await e.set(exclude=["other.py"])
            assert [*file.excerpts] == []
            await look()
            assert [*file.excerpts] == []

    session(check, related_files=True)


# What is on the screen


def test_moving_the_cursor_away_dismisses_ghost_text(session: Callable[..., None]) -> None:
    """Its words can no longer be accepted."""

    async def check(e: InProcessEditor) -> None:
        e.answer = lambda prefix: ("alpha(1)",) if prefix.endswith("a = ") else ("",)
        await e.open("a = \nb = \n")
        assert await e.ghost(4) == ["alpha(1)"]
        assert await e.ghost(9) == []
        assert await e.command("acceptWord", URI) is None
        assert e.counts("dismissed") == 1

    session(check)


def test_a_word_of_the_candidate_on_screen(session: Callable[..., None]) -> None:
    """The editor says which one; other text is not accepted."""

    async def check(e: InProcessEditor) -> None:
        e.answer = lambda _: ("first(1)", "second(2)\nmore")
        await e.open("a = \n")
        await e.ghost(4, invoked=True)
        assert await e.command("acceptWord", URI, "third") is None
        assert await e.command("acceptWord", URI, "second(2)\r\nmore") == "second"
        assert await e.command("acceptLine", URI, "(2)\nmore") == "(2)\n"
        assert e.text == "a = second(2)\n\n"
        assert await e.command("acceptLine", URI) == "more"

    session(check)


@pytest.mark.parametrize("changes", [[(7, "()")], [(7, "("), (8, ")")]])
def test_brackets_that_the_editor_closes(
    session: Callable[..., None], changes: list[tuple[int, str]]
) -> None:
    """The rest of the suggestion stays inside them, without another request."""

    async def check(e: InProcessEditor) -> None:
        e.answer = lambda _: ("(x, y)",)
        await e.open("a = foo\n")
        assert await e.ghost(7) == ["(x, y)"]
        for place, sign in changes:
            await e.edit(place, place, sign)
        assert await e.ghost(8) == ["x, y"]
        assert len(e.asked) == 1
        assert (e.counts("shown"), e.counts("dismissed")) == (1, 0)

    session(check)


def test_a_dismissal_outlives_edits_elsewhere(session: Callable[..., None]) -> None:
    """And other dismissals."""

    async def check(e: InProcessEditor) -> None:
        e.answer = lambda _: ("alpha(1)",)
        await e.open("a = \nb = \n\n\n")
        for place in (4, 9):
            assert await e.ghost(place) == ["alpha(1)"]
            await e.tell("talaria/didDismiss", uri=URI)
        await e.edit(len(e.text), len(e.text), "#")
        assert await e.ghost(4) == await e.ghost(9) == []
        assert await e.ghost(4, invoked=True) == ["alpha(1)"]

    session(check)


# Texts and positions


def test_null_fields_in_changes(session: Callable[..., None]) -> None:
    """They count as absent."""

    async def check(e: InProcessEditor) -> None:
        await e.open("x\n")
        document = e.server.files[URI].document
        start = {"start": {"line": 0, "character": 0}, "end": {"line": 0, "character": 0}}
        await e.change({"range": start, "rangeLength": None, "text": "1"}, version=None)
        await e.change({"range": start, "text": "2"})
        assert (document.text, document.version) == ("21x\n", None)
        await e.change({"range": None, "text": "whole"}, version=5)
        assert (document.text, document.version) == ("whole", 5)

    session(check)


@pytest.mark.parametrize("broken", [{"text": None}, {"text": 5}, {"range": 7, "text": ""}, 3])
def test_a_change_that_cannot_be_read(session: Callable[..., None], broken: Any) -> None:
    """The server stays silent in the document until the whole text arrives."""

    async def check(e: InProcessEditor) -> None:
        await e.open("a = \n")
        assert await e.ghost(4) == ["value"]
        await e.change(broken, version=2)
        assert await e.items(4, invoked=True) is None
        assert await e.command("acceptWord", URI) is None
        await e.edit(0, 0, "")
        assert await e.items(4) is None
        await e.change({"text": "a = \n"}, version=4)
        assert await e.ghost(4) == ["value"]

    session(check)


def test_a_position_outside_the_document(session: Callable[..., None]) -> None:
    """It is clamped to the document."""

    async def check(e: InProcessEditor) -> None:
        await e.open("a = \nb\n")
        params = {"textDocument": {"uri": URI}, "context": {"triggerKind": 1}}
        for line, character, place in ((0, 999, 4), (77, 3, 7)):
            position = {"line": line, "character": character}
            [item] = await e.request(
                "textDocument/inlineCompletion", params | {"position": position}
            )
            assert item["range"] == {"start": e.position(place), "end": e.position(place)}

    session(check)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "utf-32"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_positions_after_wide_characters(
    session: Callable[..., None], encoding: str, end: str
) -> None:
    """Emoji, combining marks and form feeds before a position, in each encoding."""
    head = '# 👩‍👩‍👧 naïve\f ü\n\f\nsmile = "😀"; '
    capabilities = {**VERSIONED, "general": {"positionEncodings": [encoding]}}

    async def check(e: InProcessEditor) -> None:
        text = head + "value = pass; double = value \n"
        e.encoding = encoding
        await e.open(text.replace("\n", end))
        e.text = text
        cursor = len(text) - 1
        await e.edit(cursor, cursor, "*")
        await e.edit(len(head), len(head), "é")
        await e.edit(len(head), len(head) + 1, "")
        [item] = await e.items(len(e.text) - 1)
        here = e.position(len(e.text) - 1)
        assert item["range"] == {"start": here, "end": here}
        start = text.index("pass")
        place = {"start": e.position(start), "end": e.position(start + 4)}
        assert await e.command("rewrite", {"uri": URI, "range": place}) == "value"
        [change] = e.edits[0]["documentChanges"]
        assert change["edits"][0]["range"] == place
        assert e.text == head + "value = value; double = value *\n"

    session(check, capabilities)


def test_selected_completion_info(
    session: Callable[..., None],
) -> None:
    """The item replaces its range and starts with its text."""

    async def check(e: InProcessEditor) -> None:
        e.answer = lambda _: ("(values)",)
        await e.open("x = 1\ny = '😀'.ap\n")
        start = e.text.index("ap")
        place = {"start": e.position(start), "end": e.position(start + 2)}
        [item] = await e.items(start + 2, selectedCompletionInfo={"range": place, "text": "append"})
        assert item["range"] == place
        assert item["insertText"] == "append(values)"
        prefix, suffix = e.asked[0]
        assert prefix.endswith("'😀'.append")
        assert suffix == "\n"

    session(check)


def test_the_text_follows_the_popup_menu(session: Callable[..., None]) -> None:
    """What continues the selected item stays without asking; another item is asked about."""

    async def check(e: InProcessEditor) -> None:
        e.answer = lambda prefix: ("pend(a)" if prefix.endswith("x.ap") else "(b)",)
        await e.open("x.ap\n")

        async def chosen(text: str) -> list[str]:
            place = {"start": e.position(2), "end": e.position(4)}
            items = await e.items(4, selectedCompletionInfo={"range": place, "text": text})
            return [item["insertText"] for item in items or ()]

        assert await e.ghost(4) == ["pend(a)"]
        assert await chosen("append") == ["append(a)"]
        assert len(e.asked) == 1
        assert await chosen("apply") == ["apply(b)"]
        assert e.asked[1:] == [("x.apply", "\n")]
        assert await chosen("append") == ["append(a)"]
        assert await e.ghost(4) == ["pend(a)"]
        # Going through the menu is no typing against what was shown.
        assert len(e.asked) == 2

    session(check)


@pytest.mark.parametrize("modes", [None, [1], [1, 2]])
def test_a_completion_item(session: Callable[..., None], modes: list[int] | None) -> None:
    """A one-line edit that starts with the word; insertTextMode if the editor supports it."""
    item: dict[str, Any] = {"documentationFormat": ["markdown"]}
    if modes:
        item["insertTextModeSupport"] = {"valueSet": modes}
    capabilities = {"textDocument": {"completion": {"completionItem": item}}}

    async def check(e: InProcessEditor) -> None:
        e.answer = lambda _: ("urn 1\n\n    def g():\n        return 2",)
        await e.open("def f():\n    ret\n")
        place = e.text.index("ret") + 3
        found = await e.request(
            "textDocument/completion",
            {"textDocument": {"uri": URI}, "position": e.position(place)},
        )
        assert found["isIncomplete"] is True
        [item] = found["items"]
        whole = "return 1\n\n    def g():\n        return 2"
        start, end = e.position(place - 3), e.position(place)
        assert item["textEdit"] == {"range": {"start": start, "end": end}, "newText": whole}
        assert item["filterText"] == whole
        assert item["label"] == "return 1 …"
        assert item["documentation"] == {"kind": "markdown", "value": f"```python\n{whole}\n```"}
        assert item.get("insertTextMode") == (1 if modes else None)

    session(check, capabilities, until="block")


# Settings


def test_a_removed_setting(session: Callable[..., None]) -> None:
    """The initial value applies again; null counts as not set."""

    async def check(e: InProcessEditor) -> None:
        await e.set(until="line", max_tokens=12)
        assert (e.server.options.until, e.server.options.max_tokens) == ("line", 12)
        await e.set(strings=False, max_tokens=None, enabled=None)
        now = e.server.options
        assert (now.until, now.max_tokens, now.strings, now.enabled) == (None, 9, False, True)
        await e.tell("workspace/didChangeConfiguration", settings="nonsense")
        assert e.server.options == now
        assert len(e.messages) == 1

    session(check, max_tokens=9)


def test_each_kind_of_endpoint_trouble_is_reported_once(session: Callable[..., None]) -> None:
    """Whatever the message says."""

    async def check(e: InProcessEditor) -> None:
        for message, kind in (("one: 5 s", "slow"), ("one: 9 s", "slow"), ("two", "key")):
            e.server._engines_trouble(message, kind)
        await asyncio.sleep(0.01)
        assert e.messages == ["Talaria: one: 5 s", "Talaria: two"]

    session(check)


@pytest.mark.parametrize("place", ["answer", "filter"])
def test_a_fault_is_told_once(session: Callable[..., None], place: str) -> None:
    """Wherever it happens; there is no suggestion then, and the next request is served."""

    def broken(*_: object) -> tuple[str, ...]:
        raise RuntimeError("broken")

    async def check(e: InProcessEditor) -> None:
        await e.open("a = \n")
        for _ in range(2):
            if place == "answer":
                e.answer = broken
                assert await e.ghost(4, invoked=True) == []
            else:
                with patch("talaria.lsp.suggest.filtered", broken), pytest.raises(AssertionError):
                    await e.ghost(4, invoked=True)
        assert [message for message in e.messages if "fault" in message] == e.messages
        assert len(e.messages) == 1
        e.answer = lambda _: ("one",)
        assert await e.ghost(4, invoked=True) == ["one"]

    session(check)


def test_trace_pages_are_deleted_with_the_session(
    session: Callable[..., None], tmp_path: Path
) -> None:
    """Only the session's own."""
    own, other = tmp_path / "own.html", tmp_path / "other.html"

    async def check(e: InProcessEditor) -> None:
        for page in (own, other):
            page.write_text("<html>")
        e.server.pages += [own, tmp_path / "gone already"]

    session(check)
    assert not own.exists()
    assert other.exists()
