"""Malformed input: the server answers requests and keeps running."""

from __future__ import annotations

import json
import queue
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from talaria.lsp.transports import messages
from tests.lsp.session import Wire
from tests.lsp.test_features import CALM

NUMBER = iter(range(1000, 10_000_000))
INLINE = "textDocument/inlineCompletion"
FAR = {"line": 10**6, "character": 10**9}


@pytest.fixture(scope="module")
def wire(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Wire]:
    """A server with its model loaded, shared by all tests here."""
    with Wire(tmp_path_factory.mktemp("state")) as wire:
        wire.begin(CALM)
        while status(wire)["engine"]["state"] == "loading":
            pass
        yield wire
        assert wire.messages() == []
        assert wire.ask("end", "shutdown")["result"] is None
        wire.tell("exit")
        assert wire.ended() == 0


def status(wire: Wire) -> dict[str, Any]:
    """The server's status, which shows that it still answers."""
    command = {"command": "talaria.status", "arguments": []}
    result: dict[str, Any] = wire.ask(next(NUMBER), "workspace/executeCommand", command)["result"]
    return result


def opened(wire: Wire, text: object, language: str = "python", version: object = 1) -> str:
    """Open a new document; its URI."""
    uri = f"file:///project/bad{next(NUMBER)}.py"
    item = {"uri": uri, "languageId": language, "version": version, "text": text}
    wire.tell("textDocument/didOpen", textDocument=item)
    return uri


def changed(wire: Wire, uri: str, version: int, *changes: dict[str, Any]) -> None:
    """Change a document."""
    wire.tell(
        "textDocument/didChange",
        textDocument={"uri": uri, "version": version},
        contentChanges=list(changes),
    )


def at(line: object, character: object) -> dict[str, Any]:
    """A position."""
    return {"line": line, "character": character}


def inline(wire: Wire, uri: str, position: object, kind: object = 2) -> dict[str, Any]:
    """Request ghost text; the whole response."""
    params = {
        "textDocument": {"uri": uri},
        "position": position,
        "context": {"triggerKind": kind},
    }
    return wire.ask(next(NUMBER), INLINE, params)


def execute(wire: Wire, command: str, *arguments: object) -> dict[str, Any]:
    """Execute a command; the whole response. An edit that it requests is accepted."""
    number = next(NUMBER)
    params = {"command": command, "arguments": list(arguments)}
    wire.say(
        {"jsonrpc": "2.0", "id": number, "method": "workspace/executeCommand", "params": params}
    )
    while True:
        try:
            return wire.answer(number, 0.2)
        except queue.Empty:
            for each in [each for each in wire.seen if each.get("method") == "workspace/applyEdit"]:
                wire.seen.remove(each)
                wire.say({"jsonrpc": "2.0", "id": each["id"], "result": {"applied": True}})


# Messages


BROKEN = [
    b"",
    b"{",
    b"null",
    b"[]",
    b"17",
    b'"text"',
    b"\xff\xfe\x00",
    b"[" * 100_000,
    b'[{"jsonrpc": "2.0", "id": 1, "method": "shutdown"}]',
    b'{"jsonrpc": "2.0"}',
    b'{"jsonrpc": "2.0", "method": 5}',
    b'{"jsonrpc": "2.0", "method": "textDocument/didChange"}',
    b'{"jsonrpc": "2.0", "method": "textDocument/didOpen", "params": []}',
    b'{"jsonrpc": "2.0", "method": "textDocument/didOpen", "params": {"textDocument": null}}',
    b'{"jsonrpc": "2.0", "method": "$/unknown", "params": {"a": {"jsonrpc": "2.0", "id": 9}}}',
    b'{"jsonrpc": "2.0", "method": "$/cancelRequest", "params": {"id": [1]}}',
    b'{"jsonrpc": "2.0", "method": "$/cancelRequest", "params": {"id": "never asked"}}',
    b'{"jsonrpc": "2.0", "method": "talaria/didDismiss"}',
    b'{"jsonrpc": "2.0", "method": "talaria/didDismiss", "params": {"uri": [1]}}',
    b'{"jsonrpc": "2.0", "method": "workspace/didChangeConfiguration", "params": {}}',
    b'{"jsonrpc": "2.0", "id": "never asked", "result": null}',
    b'{"jsonrpc": "2.0", "id": [1], "result": 1}',
    b'{"jsonrpc": "2.0", "id": "never asked", "error": {"code": "x"}}',
    b'{"jsonrpc": "2.0", "method": "initialized", "params": {}}',
]


@pytest.mark.parametrize("body", BROKEN, ids=range(len(BROKEN)))
def test_malformed_messages_without_an_id(wire: Wire, body: bytes) -> None:
    """They are skipped, at most with an error whose id is null."""
    wire.say(body)
    assert status(wire)
    said = [each for each in wire.seen if "method" not in each]
    wire.seen.clear()
    assert all(each["id"] is None and "error" in each for each in said)
    assert len(said) <= 1


@pytest.mark.parametrize(
    ("method", "params", "code"),
    [
        ("no/such", {}, -32601),
        ("$/no/such", None, -32601),
        ("initialize", {"capabilities": {}, "processId": None, "rootUri": None}, -32600),
        (INLINE, None, -32602),
        (INLINE, [], -32602),
        (INLINE, {}, -32602),
        (INLINE, "text", -32602),
        (INLINE, {"textDocument": {"uri": 5}, "position": at(0, 0)}, -32602),
        (
            INLINE,
            {"textDocument": {"uri": "x"}, "position": {"line": "a"}, "context": {}},
            -32602,
        ),
        ("textDocument/codeAction", {"textDocument": {"uri": "x"}}, -32602),
        ("workspace/executeCommand", {"command": "no.such"}, -32602),
        ("workspace/executeCommand", {"command": "talaria.fillHere"}, -32602),
        ("workspace/executeCommand", {"command": "talaria.fillHere", "arguments": [1]}, -32602),
        ("workspace/executeCommand", {"command": "talaria.fillHere", "arguments": [[]]}, -32602),
        (
            "workspace/executeCommand",
            {"command": "talaria.fillHere", "arguments": [{"uri": "x", "range": 1}]},
            -32602,
        ),
        (
            "workspace/executeCommand",
            {"command": "talaria.fillHere", "arguments": [{"uri": [], "position": at(0, 0)}]},
            -32602,
        ),
        ("workspace/executeCommand", {"command": "talaria.status", "arguments": [1]}, -32602),
        ("workspace/executeCommand", {"command": "talaria.toggle", "arguments": [1, 2]}, -32602),
    ],
)
def test_invalid_requests(wire: Wire, method: str, params: object, code: int) -> None:
    """Each gets an error that says why."""
    answer = wire.ask(next(NUMBER), method, params)
    assert answer["error"]["code"] == code
    assert status(wire)


@pytest.mark.parametrize("number", [1.5, None, [1], {"a": 1}])
def test_invalid_ids(wire: Wire, number: object) -> None:
    """The error has a null id."""
    wire.say({"jsonrpc": "2.0", "id": number, "method": INLINE, "params": {}})
    assert wire.answer(None)["error"]["code"] == -32600
    wire.say({"id": 3, "method": INLINE, "params": {}})
    assert wire.answer(3)["error"]["code"] == -32600


@pytest.mark.parametrize(
    "header",
    [
        b"Content-Length: abc\r\n\r\n",
        b"Content-Length: -5\r\n\r\n",
        b"Content-Length: 99999999999999999999999\r\n\r\n",
        b"Content-Length: 70000000\r\n\r\n",
        b"Content-Length: 5\r\n\r\n{}",
        b"Content-Length: 2\r\n\r\n{}{}{}{}",
        b"Content-Length: 0\r\n\r\n",
        b"\r\n\r\nnonsense\n\n",
        b"content-length:2\r\nContent-Type: x\r\n\r\n{}",
    ],
)
def test_wrong_headers(wire: Wire, header: bytes) -> None:
    """The message after the next is understood at the latest."""
    wire.send(header)
    for number in ("lost", "found"):
        params = {"command": "talaria.status"}
        wire.say(
            {"jsonrpc": "2.0", "id": number, "method": "workspace/executeCommand", "params": params}
        )
    assert wire.answer("found")["result"]
    wire.seen.clear()


@given(st.lists(st.binary(max_size=40), max_size=5), st.binary(max_size=60))
def test_messages_are_found_in_any_stream(bodies: list[bytes], rest: bytes) -> None:
    """Bodies are not mistaken for headers, and trailing bytes are not an error."""
    stream = b"".join(b"Content-Length: %d\r\n\r\n%b" % (len(each), each) for each in bodies)
    assert list(messages(BytesIO(stream + rest)))[: len(bodies)] == bodies


def test_before_initialize(tmp_path: Path) -> None:
    """Requests are errors; options of the wrong type are reported once."""
    with Wire(tmp_path) as wire:
        assert wire.ask(1, INLINE, {})["error"]["code"] == -32002
        wire.tell("textDocument/didOpen", textDocument={})
        assert "error" in wire.ask(2, "initialize", {"capabilities": 5})
        capabilities = {"general": {"positionEncodings": ["utf-7", "utf-8"]}}
        answer = wire.begin(
            ["nonsense", 5], capabilities=capabilities, rootUri="file://[bad/x", processId=10**30
        )
        assert answer["result"]["capabilities"]["positionEncoding"] == "utf-8"
        assert status(wire)["enabled"] is True
        assert len(wire.messages()) == 1
        wrong: list[Any] = [5, "x", {"talaria": []}, {"talaria": {"enabled": "no", "mode": {}}}, []]
        for settings in wrong:
            wire.tell("workspace/didChangeConfiguration", settings=settings)
        assert status(wire)["enabled"] is True
        assert len(wire.messages()) <= 5
        shown = len(wire.messages())
        wire.tell("workspace/didChangeConfiguration", settings=5)
        assert status(wire)
        assert len(wire.messages()) == shown


# Documents


def test_positions_outside_the_document(wire: Wire) -> None:
    """They are clamped to its start or end."""
    uri = opened(wire, "import os\n\nvalues = [")
    for position in (
        FAR,
        at(0, 2**32 - 1),
        at(2**53, 0),
        at(-1, -5),
        {"line": 1, "character": 1e400},
    ):
        assert "result" in inline(wire, uri, position)
        assert "result" in inline(wire, uri, position, 1)
        place = {"uri": uri, "range": {"start": position, "end": at(0, 0)}}
        assert execute(wire, "talaria.fillHere", place)["result"] is None
    for position in (at(0, "x"), {"line": float("nan"), "character": 0}, {"line": None}):
        assert "error" in inline(wire, uri, position)
    changed(
        wire, uri, 2, {"range": {"start": at(-3, 0), "end": at(2**32, 0)}, "text": "def f():\n"}
    )
    changed(wire, uri, 3, {"range": {"start": FAR, "end": FAR}, "text": "    pass\n"})
    assert execute(wire, "talaria.fillHere", {"uri": uri, "position": at(1, 5)})["result"]
    assert "result" in inline(wire, uri, at(1, 4), 1)


def test_changes_to_closed_documents(wire: Wire) -> None:
    """They change nothing; closing or opening twice is not an error."""
    count = status(wire)["documents"]
    changed(wire, "file:///not/open.py", 1, {"text": "x"})
    wire.tell("textDocument/didClose", textDocument={"uri": "file:///not/open.py"})
    uri = opened(wire, "x = 1")
    item = {"uri": uri, "languageId": "python", "version": 1, "text": "y = "}
    wire.tell("textDocument/didOpen", textDocument=item)
    assert status(wire)["documents"] == count + 1
    for _ in range(2):
        wire.tell("textDocument/didClose", textDocument={"uri": uri})
    assert status(wire)["documents"] == count
    assert inline(wire, uri, at(0, 0), 1)["result"] is None


def test_decreasing_versions(wire: Wire) -> None:
    """Changes apply in the order in which they arrive."""
    uri = opened(wire, "", version=7)
    for version in (6, -1, 6, 2**40):
        changed(wire, uri, version, {"text": f"# {version}\nvalue = {version} + "})
    assert "result" in inline(wire, uri, FAR, 1)
    changed(wire, uri, 3)
    assert "result" in inline(wire, uri, FAR)


def test_lone_surrogates(wire: Wire) -> None:
    """In a text, an edit, a URI, a command."""
    uri = opened(wire, 'name = "\ud83d"\n\n\ndef f(a):\n    """\udc00"""\n    pass\n')
    assert "result" in inline(wire, uri, at(5, 4), 1)
    edge = {"start": at(0, 9), "end": at(0, 9)}
    changed(wire, uri, 2, {"range": edge, "text": "\ude00"})
    assert "result" in inline(wire, uri, at(1, 0), 1)
    assert "error" not in execute(wire, "talaria.fillHere", {"uri": uri, "position": at(5, 5)})
    trace = execute(wire, "talaria.showTrace", uri)
    if trace["result"]:
        Path(trace["result"].removeprefix("file://")).unlink()
    assert "error" not in trace
    for address in ("file:///\ud800.py", "file:///a%00b.py", "file://[x/y", "", "\ud83d"):
        item = {"uri": address, "languageId": "python", "version": 1, "text": "x = "}
        wire.tell("textDocument/didOpen", textDocument=item)
        assert "result" in inline(wire, address, at(0, 4), 1)
        wire.tell("textDocument/didClose", textDocument={"uri": address})
    assert execute(wire, "talaria.toggle", "\ud800")["result"] is False
    assert execute(wire, "talaria.toggle", "\ud800")["result"] is True


def test_a_large_file(wire: Wire) -> None:
    """Fifty thousand lines get suggestions; above the limit, there are none."""
    line = "    value = compute(value, 1)  # and so on\n"
    uri = opened(wire, "def f(value):\n" + line * 50_000)
    edge = {"start": at(25_000, 0), "end": at(25_000, 0)}
    changed(wire, uri, 2, {"range": edge, "text": "    \n"})
    assert inline(wire, uri, at(25_000, 4), 1)["result"]
    assert "result" in inline(wire, uri, at(25_000, 4))
    changed(wire, uri, 3, {"text": line * 100_000})
    assert inline(wire, uri, at(25_000, 4), 1)["result"] is None
    wire.tell("textDocument/didClose", textDocument={"uri": uri})


@pytest.mark.parametrize("language", ["cobol", "", "\ud800", "x" * 10_000])
def test_a_language_without_a_grammar(wire: Wire, language: str) -> None:
    """No automatic suggestions; invoking by hand works."""
    uri = opened(wire, "DIVISION.\n  MOVE x TO ", language)
    assert inline(wire, uri, FAR)["result"] is None
    assert "result" in inline(wire, uri, FAR, 1)
    assert "error" not in execute(wire, "talaria.rewrite", {"uri": uri, "position": at(0, 0)})


@pytest.mark.parametrize(
    "text", ["\0\1\2\ufffd" * 100, "x" * 200_000, "\r" * 1000, "(" * 3_000, "\f\v\x1c\u2028" * 9]
)
def test_text_that_is_not_code(wire: Wire, text: str) -> None:
    """Binary content, endless lines, only brackets: requests are answered."""
    uri = opened(wire, text)
    assert "result" in inline(wire, uri, at(0, 5), 1)
    assert "result" in inline(wire, uri, FAR, 1)
    assert "error" not in execute(wire, "talaria.fillHere", {"uri": uri, "position": at(0, 3)})
    wire.tell("textDocument/didClose", textDocument={"uri": uri})


@pytest.mark.parametrize("answer", [{"result": None}, {"error": {"code": -1, "message": "no"}}, {}])
def test_an_invalid_response_to_an_edit(wire: Wire, answer: dict[str, Any]) -> None:
    """The command ends all the same."""
    uri = opened(wire, "def double(value):\n    pass\n")
    number = next(NUMBER)
    params = {"command": "talaria.fillHere", "arguments": [{"uri": uri, "position": at(1, 5)}]}
    wire.say(
        {"jsonrpc": "2.0", "id": number, "method": "workspace/executeCommand", "params": params}
    )
    while True:
        message = wire.come.get(timeout=60)
        if message.get("method") == "workspace/applyEdit":
            wire.say({"jsonrpc": "2.0", "id": message["id"]} | answer)
        elif message.get("id") == number:
            break
        wire.seen.append(message)
    assert "error" in message or message["result"] is None
    wire.seen.clear()
    assert json.dumps(status(wire))


CONTEXTS: list[object] = [
    None,
    {},
    {"triggerKind": 0},
    {"triggerKind": 7},
    {"triggerKind": None},
    {"triggerKind": True},
    {"triggerKind": "Automatic"},
    {"triggerKind": 2, "selectedCompletionInfo": None},
    {"selectedCompletionInfo": None},
    [],
    3,
]


@pytest.mark.parametrize("context", [*CONTEXTS, "missing"], ids=repr)
def test_a_context_that_says_nothing_is_automatic(wire: Wire, context: object) -> None:
    """As older editors and other languages send it; the answer has at most one item."""
    uri = opened(wire, "def f(values):\n    return sum(\n")
    params = {"textDocument": {"uri": uri}, "position": at(1, 15), "context": context}
    if context == "missing":
        del params["context"]
    reply = wire.ask(next(NUMBER), INLINE, params)
    expected = inline(wire, uri, at(1, 15))
    assert len(reply["result"] or []) <= 1
    assert [item["insertText"] for item in reply["result"] or []] == [
        item["insertText"] for item in expected["result"] or []
    ]


@pytest.mark.parametrize("context", [*CONTEXTS, "missing"], ids=repr)
def test_code_actions_without_a_useful_context(wire: Wire, context: object) -> None:
    """The same actions as with one."""
    uri = opened(wire, "def f(values):\n    ...\n")
    where = {"start": at(1, 5), "end": at(1, 5)}
    params = {"textDocument": {"uri": uri}, "range": where, "context": context}
    if context == "missing":
        del params["context"]
    reply = wire.ask(next(NUMBER), "textDocument/codeAction", params)
    assert [action["title"] for action in reply["result"]] == [
        "Talaria: Fill in `...`",
        "Talaria: Write the body of f",
    ]


def test_numbers_may_have_a_point(wire: Wire) -> None:
    """Versions and positions too, as some editors' JSON has no integers."""
    uri = opened(wire, "x = 1\n", version=1.0)
    wire.tell(
        "textDocument/didChange",
        textDocument={"uri": uri, "version": 2.0},
        contentChanges=[{"range": {"start": at(0.0, 4.0), "end": at(0.0, 5.0)}, "text": "22"}],
    )
    assert "error" not in inline(wire, uri, at(0.0, 6.0), kind=2.0)
    assert status(wire)["engine"]["state"] == "ready"
