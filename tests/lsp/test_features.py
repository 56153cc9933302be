"""The language server as editors use it, over stdio, with the bundled model.

The tests do not depend on what the model writes, only on what the server does with it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from lsprotocol import converters, types
from pygls.exceptions import JsonRpcException

from talaria.lsp.usage import read
from tests.lsp.session import Editor, EditorSession, editor, session

# On a busy machine, a deadline or a guess at the typing must not decide a test.
CONVERTER = converters.get_converter()
CALM = {"deadline_ms": 60_000, "fill_deadline_ms": 60_000, "debounce_ms": 0, "least_confidence": 0}
CODE = '''import os


def names(folder):
    """Names of the files in a folder."""
    @


def mean(values):
    """The arithmetic mean."""
    total = 0
    for value in values:
        @
    return total / len(values)


class Stack:
    def __init__(self):
        self.items = []

    def push(self, item):
        @

    def size(self):
        return @
'''
TEXT = CODE.replace("@", "")
PLACES = [len("".join(CODE.split("@")[: n + 1])) for n in range(4)]
FUNCTION = 'def double(value):\n    """Twice the value."""\n    {}\n\n\nprint(double(2))\n'


@pytest.fixture(scope="module")
def vscode(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EditorSession]:
    """VS Code, which uses UTF-16 and enables all notifications."""
    options = {**CALM, "status": True, "steps": True}
    with session(tmp_path_factory.mktemp("vscode"), kind="vscode", options=options) as here:
        yield here


@pytest.fixture(scope="module")
def neovim(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EditorSession]:
    """Neovim, which uses UTF-8, with completions beside inline ones."""
    options = {**CALM, "completion": True}
    with session(tmp_path_factory.mktemp("neovim"), kind="neovim", options=options) as here:
        yield here


@pytest.fixture(scope="module")
def emacs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EditorSession]:
    """Emacs, which uses UTF-32."""
    with session(tmp_path_factory.mktemp("emacs"), kind="emacs", options=CALM) as here:
        yield here


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EditorSession]:
    """An editor that announces no capabilities."""
    with session(tmp_path_factory.mktemp("plain"), kind="plain", options=CALM) as here:
        yield here


def uri(name: str) -> str:
    """The URI of a file that no other test uses."""
    return f"file:///project/{name}.py"


async def suggested(e: Editor, where: str, least: int = 1) -> tuple[int, str]:
    """A position in an open TEXT with ghost text of some length, and that text."""
    for offset in PLACES:
        for item in await e.ask(where, offset):
            text = str(item.insert_text)
            if len(text) >= least:
                return offset, text
    raise AssertionError("the model has nothing to say anywhere")


def complete(e: Editor, where: str, offset: int) -> Any:
    """Request a completion list."""
    return e.client.text_document_completion_async(
        types.CompletionParams(types.TextDocumentIdentifier(where), e.position(where, offset))
    )


async def actions(e: Editor, where: str, start: int, end: int) -> list[types.CodeAction]:
    """The code actions of a range."""
    protocol = e.client.protocol
    asked = protocol.send_request_async(
        types.TEXT_DOCUMENT_CODE_ACTION,
        types.CodeActionParams(
            types.TextDocumentIdentifier(where),
            types.Range(e.position(where, start), e.position(where, end)),
            types.CodeActionContext([]),
        ),
        "actions",
    )
    # pygls would take an action that has a command for a command.
    protocol._result_types.pop("actions")
    return [CONVERTER.structure(each, types.CodeAction) for each in await asked]


# What the server says of itself


@pytest.mark.parametrize(
    ("kind", "encoding", "completes"),
    [
        ("vscode", "utf-16", False),
        ("neovim", "utf-8", True),
        ("emacs", "utf-32", False),
        ("plain", "utf-16", True),
    ],
)
def test_capabilities_match_the_editor(
    request: pytest.FixtureRequest, kind: str, encoding: str, completes: bool
) -> None:
    """Its encoding; completions if it lacks inline ones, or asks for them."""
    here: EditorSession = request.getfixturevalue(kind)
    can = here.editor.server.capabilities
    assert here.editor.encoding == encoding
    assert can.inline_completion_provider
    assert can.code_action_provider
    assert bool(can.completion_provider) == completes
    assert can.execute_command_provider
    assert "talaria.fillFunction" in can.execute_command_provider.commands
    assert isinstance(can.text_document_sync, types.TextDocumentSyncOptions)
    assert can.text_document_sync.change == types.TextDocumentSyncKind.Incremental


def test_loading_is_shown_as_progress(vscode: EditorSession, plain: EditorSession) -> None:
    """With a beginning and an end; not in an editor that does not support it."""
    e = vscode.editor
    vscode.run(e.until(lambda: len(e.progress) >= 3))
    assert e.progress[0] == "create"
    assert [each["kind"] for each in e.progress[1:]] == ["begin", "end"]
    assert plain.editor.progress == []


# Ghost text


@pytest.mark.parametrize("kind", ["vscode", "neovim", "emacs", "plain"])
def test_ghost_text(request: pytest.FixtureRequest, kind: str) -> None:
    """One automatic item, several if invoked; a range at the cursor; accepted by its command."""
    here: EditorSession = request.getfixturevalue(kind)
    e, where = here.editor, uri("ghost")

    async def check() -> None:
        e.open(where, TEXT)
        offset, _ = await suggested(e, where, 2)
        [item] = await e.ask(where, offset)
        cursor = e.position(where, offset)
        assert item.range == types.Range(cursor, cursor)
        assert item.command
        assert item.command.command == "talaria.accepted"
        several = await e.ask(where, offset, invoked=True)
        texts = [each.insert_text for each in several]
        assert 1 <= len(texts) == len(set(texts)) <= 3
        assert await e.ask(where, offset, invoked=True) == several
        assert item.command.arguments
        assert await e.command(item.command.command, *item.command.arguments) is None

    here.run(check())


# Typing


def test_typing_through_costs_no_request(vscode: EditorSession) -> None:
    """The rest comes from the cache, also after deleting a key."""
    e, where = vscode.editor, uri("along")

    async def check() -> None:
        e.open(where, TEXT)
        offset, text = await suggested(e, where, 4)
        before = await e.counters()
        for key in range(1, 3):
            e.type(where, offset + key - 1, text[key - 1])
            [item] = await e.ask(where, offset + key)
            assert item.insert_text == text[key:]
        e.edit(where, offset + 1, offset + 2, "")
        [item] = await e.ask(where, offset + 1)
        assert item.insert_text == text[1:]
        assert (await e.counters())["requests"] == before["requests"]
        e.type(where, offset + 1, "§")
        assert all(
            each.insert_text != text[1:] for each in await e.ask(where, offset + 2, invoked=True)
        )
        assert (await e.counters())["requests"] > before["requests"]

    vscode.run(check())


def test_what_follows_an_acceptance_is_prefetched(vscode: EditorSession) -> None:
    """The next request costs the model nothing more."""
    e, where = vscode.editor, uri("ahead")

    async def check() -> None:
        e.open(where, TEXT)
        offset, text = await suggested(e, where, 4)
        before = await e.counters()
        e.edit(where, offset, offset, text)
        while (now := await e.counters())["answered"] == before["answered"]:
            await asyncio.sleep(0.01)
        await e.ask(where, offset + len(text))
        assert (await e.counters())["requests"] == now["requests"] == before["requests"] + 1

    vscode.run(check())


def test_concurrent_requests_share_one_computation(neovim: EditorSession) -> None:
    """Ghost text and a completion list at one position are one request to the model."""
    e, where = neovim.editor, uri("twice")

    async def check() -> None:
        e.open(where, TEXT)
        before = await e.counters()
        ghost, listed = await asyncio.gather(e.ask(where, PLACES[1]), complete(e, where, PLACES[1]))
        assert (await e.counters())["requests"] == before["requests"] + 1
        assert [i.insert_text for i in ghost] == [i.text_edit.new_text for i in listed.items]

    neovim.run(check())


def test_a_dismissed_suggestion_does_not_come_again(vscode: EditorSession) -> None:
    """Neither it nor its rest, unless invoked by hand."""
    e, where = vscode.editor, uri("dismissed")

    async def check() -> None:
        e.open(where, TEXT)
        offset, text = await suggested(e, where, 4)
        e.dismiss(where)
        before = await e.counters()
        assert await e.ask(where, offset) == []
        e.type(where, offset, text[0])
        assert await e.ask(where, offset + 1) == []
        assert (await e.counters())["requests"] == before["requests"]
        e.edit(where, offset, offset + 1, "")
        assert await e.ask(where, offset, invoked=True) != []

    vscode.run(check())


def test_the_newest_request_supersedes(vscode: EditorSession) -> None:
    """An older one about the document is answered with null; one live request is left."""
    e, where = vscode.editor, uri("newest")

    async def check() -> None:
        e.open(where, TEXT)
        older, newer = await asyncio.gather(
            e.ask(where, PLACES[1], invoked=True), e.ask(where, PLACES[2], invoked=True)
        )
        assert older == []
        assert newer != []
        now = await e.counters()
        assert now["requests"] == now["answered"] + now["cancelled"] + now["failed"]

    vscode.run(check())


@pytest.mark.parametrize("closes", [False, True])
def test_a_stale_answer_is_dropped(vscode: EditorSession, closes: bool) -> None:
    """After a key, or after the document was closed and opened again."""
    e, where = vscode.editor, uri(f"stale{closes}")

    async def check() -> None:
        e.open(where, TEXT)
        asked = asyncio.ensure_future(e.ask(where, PLACES[0], invoked=True))
        await asyncio.sleep(0)
        if closes:
            e.close(where)
            e.open(where, TEXT)
        else:
            e.type(where, PLACES[0], "x")
        assert await asked == []

    vscode.run(check())


@pytest.mark.parametrize("command", [False, True])
def test_a_cancelled_request_is_answered(vscode: EditorSession, command: bool) -> None:
    """With RequestCancelled, as the protocol requires; a cancelled command writes nothing."""
    e, where = vscode.editor, uri(f"cancel{command}")

    async def check() -> None:
        text = FUNCTION.format("pass")
        e.open(where, text)
        offset = text.index("pass")
        at = e.position(where, offset)
        params: Any = types.InlineCompletionParams(
            types.InlineCompletionContext(types.InlineCompletionTriggerKind.Invoked),
            types.TextDocumentIdentifier(where),
            at,
        )
        if command:
            params = types.ExecuteCommandParams("talaria.fillHere", [e.place(where, offset)])
        method = "workspace/executeCommand" if command else "textDocument/inlineCompletion"
        asked = e.client.protocol.send_request_async(method, params, f"cancelled {command}")
        e.client.cancel_request(types.CancelParams(f"cancelled {command}"))
        with pytest.raises(JsonRpcException) as error:
            await asked
        assert error.value.code == -32800
        while (now := await e.counters())["requests"] > sum(
            now[name] for name in ("answered", "cancelled", "failed")
        ):
            await asyncio.sleep(0.01)
        assert e.texts[where] == text

    vscode.run(check())


# A list of completions


@pytest.mark.parametrize("kind", ["neovim", "plain"])
def test_completions_for_editors_without_ghost_text(
    request: pytest.FixtureRequest, kind: str
) -> None:
    """Items of an incomplete list: an edit at the cursor, the whole text as documentation."""
    here: EditorSession = request.getfixturevalue(kind)
    e, where = here.editor, uri("list")

    async def check() -> None:
        e.open(where, TEXT)
        items = 0
        for place in PLACES:
            found = await complete(e, where, place)
            assert found.is_incomplete
            for item in found.items:
                items += 1
                cursor = e.position(where, place)
                assert item.text_edit.range == types.Range(cursor, cursor)
                assert item.filter_text == item.text_edit.new_text
                assert "\n" not in item.label
                # None of them says it reads markdown.
                assert item.documentation == item.text_edit.new_text
        assert items

    here.run(check())


# What is asked for


@pytest.mark.parametrize("kind", ["vscode", "plain"])
def test_a_function_is_written(request: pytest.FixtureRequest, kind: str) -> None:
    """By its code action, with steps if enabled; then the trace."""
    here: EditorSession = request.getfixturevalue(kind)
    e, where = here.editor, uri("function")

    async def check() -> None:
        text = FUNCTION.format("pass")
        e.open(where, text)
        offset = text.index("value)")
        titles = {each.title: each for each in await actions(e, where, offset, offset)}
        [action] = [each for title, each in titles.items() if "double" in title]
        assert action.kind == types.CodeActionKind.RefactorRewrite
        assert action.command
        e.notified.clear()
        assert action.command.arguments
        first = await e.command(action.command.command, *action.command.arguments)
        assert first
        head, _, tail = text.partition("pass")
        assert e.texts[where] == head + first + tail
        compile(e.texts[where], "written", "exec")
        steps = [params for name, params in e.notified if name == "talaria/step"]
        assert bool(steps) == (kind == "vscode")
        if steps:
            assert steps[-1].uri == where
            assert steps[-1].version == 1
        address = await e.command("talaria.showTrace", where)
        page = Path(address.removeprefix("file://"))
        assert "<html" in page.read_text()[:200]
        page.unlink()
        assert e.documents == ([address] if kind == "vscode" else [])

    e.messages.clear()
    e.documents.clear()
    here.run(check())


def test_steps_show_what_will_be_written(vscode: EditorSession) -> None:
    """Even after a half-typed word, which the first token repeats."""
    e, where = vscode.editor, uri("half")

    async def check() -> None:
        text = "def area(width, height):\n    return widest\n"
        e.open(where, text)
        e.notified.clear()
        start = text.index("est")
        selected = types.Range(e.position(where, start), e.position(where, start + 3))
        place = {"uri": where, "range": CONVERTER.unstructure(selected)}
        first = await e.command("talaria.rewrite", place)
        assert first
        assert first.startswith("th")
        shown = [params.pieces for name, params in e.notified if name == "talaria/step"]
        so_far = ["".join(piece for piece in pieces if piece) for pieces in shown]
        assert first in so_far
        assert not any(text.startswith((" ", "wid")) for text in so_far)

    vscode.run(check())


@pytest.mark.parametrize(
    "hole", ["...", "pass", "raise NotImplementedError", "raise NotImplementedError('soon')"]
)
def test_a_placeholder_is_filled(vscode: EditorSession, hole: str) -> None:
    """The one at the cursor."""
    e, where = vscode.editor, uri(f"here{len(hole)}")

    async def check() -> None:
        text = FUNCTION.format(hole)
        e.open(where, text)
        offset = text.index(hole) + 1
        [action] = [
            each
            for each in await actions(e, where, offset, offset)
            if each.command and each.command.command == "talaria.fillHere"
        ]
        assert hole in action.title
        written = await e.command("talaria.fillHere", e.place(where, offset))
        assert written
        assert e.texts[where] == FUNCTION.format(written)
        compile(e.texts[where], "written", "exec")

    vscode.run(check())


def test_a_todo_is_done_below_it(vscode: EditorSession) -> None:
    """The comment stays."""
    e, where = vscode.editor, uri("todo")

    async def check() -> None:
        text = FUNCTION.format("# TODO: return twice the value")
        e.open(where, text)
        written = await e.command("talaria.fillHere", e.place(where, text.index("TODO")))
        assert written
        assert e.texts[where] == FUNCTION.format(f"# TODO: return twice the value\n    {written}")

    vscode.run(check())


def test_a_command_without_a_target_says_why(vscode: EditorSession) -> None:
    """Without a selection, a placeholder, a function or the file."""
    e, where = vscode.editor, uri("rewrite")

    async def check() -> None:
        text = FUNCTION.format("return value + value")
        e.open(where, text)
        start = text.index("value + value")
        e.messages.clear()
        assert await e.command("talaria.rewrite", e.place(where, start)) is None
        assert "no selection" in e.messages.pop()
        assert await e.command("talaria.fillHere", e.place(where, 0)) is None
        assert "line 1" in e.messages.pop()
        assert await e.command("talaria.fillFunction", e.place(where, len(text) - 1)) is None
        assert "no function" in e.messages.pop()
        e.texts[uri("closed")] = text
        assert await e.command("talaria.fillHere", e.place(uri("closed"), 0)) is None
        assert "not open" in e.messages.pop()

    vscode.run(check())


def test_a_stale_edit_is_reported(vscode: EditorSession) -> None:
    """Edits carry the version that was read; what the editor rejects is not written."""
    e, where = vscode.editor, uri("refused")

    async def check() -> None:
        text = FUNCTION.format("pass")
        e.open(where, text)
        e.messages.clear()
        place = e.place(where, text.index("pass"))
        e.versions[where] = 7  # which the server has not been told yet
        assert await e.command("talaria.fillHere", place) is None
        assert "stale" in e.messages.pop()
        assert e.texts[where] == text
        e.versions[where] = 1
        asked = asyncio.ensure_future(e.command("talaria.fillFunction", place))
        await asyncio.sleep(0)
        e.type(where, len(text), "#")
        assert await asked is None
        assert "changed meanwhile" in e.messages.pop()
        assert await e.command("talaria.nextCandidate", where) is None
        assert e.messages.pop()

    vscode.run(check())


def test_a_word_is_accepted_by_command(vscode: EditorSession) -> None:
    """For editors that cannot; the rest costs no request."""
    e, where = vscode.editor, uri("partly")

    async def check() -> None:
        e.open(where, TEXT)
        offset, text = await suggested(e, where, 6)
        before = await e.counters()
        word = await e.command("talaria.acceptWord", where)
        assert text.startswith(word)
        assert e.texts[where] == TEXT[:offset] + word + TEXT[offset:]
        assert 0 < len(word) < len(text)
        assert (await e.counters())["requests"] == before["requests"]
        [item] = await e.ask(where, offset + len(word))
        assert item.insert_text == text[len(word) :]
        assert await e.command("talaria.acceptWord", uri("not open")) is None

    vscode.run(check())


def test_off_and_on(vscode: EditorSession) -> None:
    """By language and for all; what is off is silent even when invoked."""
    e, where = vscode.editor, uri("off")

    async def check() -> None:
        e.open(where, TEXT)
        offset, _ = await suggested(e, where)
        for language in ("python", ""):
            assert await e.command("talaria.toggle", language) is False
            assert await e.ask(where, offset, invoked=True) == []
            assert await actions(e, where, offset, offset) == []
            assert await e.command("talaria.toggle", language) is True
            assert await e.ask(where, offset, invoked=True) != []
        assert await e.command("talaria.toggle") is False
        status = await e.command("talaria.status")
        assert status["enabled"] is False
        await e.until(lambda: e.notified[-1][1].state == "off")
        assert await e.command("talaria.toggle") is True

    vscode.run(check())


def test_status_only_if_enabled(vscode: EditorSession, neovim: EditorSession) -> None:
    """Other editors get no notifications."""
    e, where = vscode.editor, uri("status")

    async def check() -> None:
        e.open(where, TEXT)
        e.notified.clear()
        await e.ask(where, PLACES[0], invoked=True)
        states = [params.state for name, params in e.notified if name == "talaria/status"]
        assert states == ["busy", "ready"]

    vscode.run(check())
    assert neovim.editor.notified == []


# Options, secrets, other files


def test_changing_options(tmp_path: Path) -> None:
    """Invalid ones give one message and change nothing; valid ones apply at once."""
    bad = {"debounce_ms": "soon", "no_such": 1, "mode": "ar", "candidates": 2, **CALM}
    bad["debounce_ms"] = "soon"

    async def check() -> None:
        async with editor(tmp_path, options=bad) as e:
            where = uri("options")
            await e.ready()
            e.open(where, TEXT)
            assert len(e.messages) == 1
            assert "debounce_ms" in e.messages[0] or "no_such" in e.messages[0]
            assert len(await e.ask(where, PLACES[0], invoked=True)) <= 2
            # A debounce: of two places asked about in a row, one reaches the model.
            e.configure({"talaria": {"debounce_ms": 300, "status": True}})
            before = await e.counters()
            first, _ = await asyncio.gather(e.ask(where, PLACES[1]), e.ask(where, PLACES[2]))
            assert first == []
            assert (await e.counters())["requests"] == before["requests"] + 1
            # A deadline that nobody can meet. What is no longer set is as it was.
            e.configure({"debounce_ms": 0, "deadline_ms": 1})
            assert await e.ask(where, PLACES[3]) == []
            assert (await e.counters())["expired"] == before["expired"] + 1
            e.configure({"enabled": False, "deadline_ms": 60_000})
            assert await e.ask(where, PLACES[0], invoked=True) == []
            e.settings = {"enabled": True, "exclude": ["*_pb2.py"]}
            e.configure(None)
            while not (await e.command("talaria.status"))["enabled"]:
                await asyncio.sleep(0.01)
            # Another model is loaded while the session goes on; a wrong one is told of once.
            e.configure({"model": str(tmp_path / "nowhere")})
            assert await e.ask(where, PLACES[0] - 1, invoked=True) == []
            await e.until(lambda: len(e.messages) == 3)
            assert e.messages[1] == "Talaria: nothing to suggest: suggestions are switched off"
            e.configure({"model": None, "exclude": 5})
            await e.ready()
            assert await e.ask(where, PLACES[1], invoked=True) != []
            await e.until(lambda: len(e.messages) == 4)
            assert "exclude" in e.messages[3]
        assert e.code == 0

    asyncio.run(check())


def test_secret_and_excluded_files(tmp_path: Path) -> None:
    """Nothing of them reaches the model; other files become context; usage is counted."""
    root, state = tmp_path / "root", tmp_path / "state"
    (root / "lib").mkdir(parents=True)
    (root / "shapes.py").write_text(
        "class Shape:\n"
        "    def circumference(self):\n"
        '        """Length of the outline."""\n'
        "        return 2\n"
    )
    text = "from shapes import Shape\n\n\ndef outline(shape: Shape):\n    return shape.\n"
    options = {**CALM, "exclude": ["lib/"]}

    async def check() -> None:
        async with editor(state, root=root, options=options, kind="neovim") as e:
            await e.ready()
            before = await e.counters()
            for name in (".env", "id_rsa", "lib/code.py", "server.key"):
                where = (root / name).as_uri()
                e.open(where, TEXT)
                assert await e.ask(where, PLACES[0], invoked=True) == []
                assert await actions(e, where, PLACES[0], PLACES[0]) == []
            e.open("git:/somewhere/.env?%7B%7D", TEXT)
            assert await e.ask("git:/somewhere/.env?%7B%7D", PLACES[0], invoked=True) == []
            assert (await e.counters())["requests"] == before["requests"]
            where = (root / "main.py").as_uri()
            e.open(where, text)
            offset = text.index("shape.\n") + 6
            alone = together = 0
            while not alone < together:  # until the other files have been looked at
                tokens = [(await e.counters())["context_tokens"]]
                for related in (False, True):
                    e.configure({"related_files": related})
                    await e.ask(where, offset)
                    tokens.append((await e.counters())["context_tokens"])
                alone, together = tokens[1] - tokens[0], tokens[2] - tokens[1]
            # What counts as a secret folder does so within the workspace alone.
            folder = types.WorkspaceFolder((tmp_path / "more").as_uri(), "more")
            where = f"{folder.uri}/our-secrets/code.py"
            e.open(where, TEXT)
            assert await e.ask(where, PLACES[0], invoked=True) != []
            for added, removed in (([folder], []), ([], [folder])):
                e.client.workspace_did_change_workspace_folders(
                    types.DidChangeWorkspaceFoldersParams(
                        types.WorkspaceFoldersChangeEvent(added, removed)
                    )
                )
                found = await e.ask(where, PLACES[0], invoked=True)
                assert bool(found) == bool(removed)
            e.open(uri("counted"), TEXT)
            offset, said = await suggested(e, uri("counted"), 4)
            e.edit(uri("counted"), offset, offset, said)
        assert e.code == 0

    asyncio.run(check())
    total: dict[str, int] = {}
    for pairs in read(state).values():
        for (language, _), counts in pairs.items():
            assert language == "python"
            for name, count in counts.items():
                total[name] = total.get(name, 0) + count
    assert total["shown"] >= 1
    assert total["accepted"] == 1
