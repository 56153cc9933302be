"""Any sequence of editor actions: texts agree, answers fit them, nothing is left over.

The server runs in this process, with JSON messages in both directions. A scripted endpoint
answers when the machine lets it, so that events can happen in any order.
`TALARIA_LSP_OPERATIONS=10000 pytest tests/lsp/test_machine.py` is the long run.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from talaria.lsp.documents import plain
from talaria.lsp.engines import Engines
from talaria.lsp.features import register
from talaria.lsp.options import ServerOptions
from talaria.lsp.server import TalariaServer
from talaria.lsp.usage import Usage

OPERATIONS = int(os.environ.get("TALARIA_LSP_OPERATIONS", "1500"))
STEPS = 50  # of an example
URIS = [f"file:///project/machine{number}.py" for number in range(3)]
INLINE, COMPLETION = "textDocument/inlineCompletion", "textDocument/completion"
EXECUTE = "workspace/executeCommand"
TEXTS = st.text(st.sampled_from("ab (:\n\r\t=#'\f\u2028é😀\ud800"), max_size=12)
PIECES = TEXTS | st.sampled_from(
    ["def f(a):\r\n    pass\r\n", "# TODO: more\n", "x = ...\n", "\r\n", "value"]
)
PLACES = st.integers(0, 10**6)
FIRST = "import os\n\n\ndef f(a):\n    \n\n\ndef g(b):\n    pass\n\nx = \n# TODO: é😀\n"
State = tuple[int | None, str | None]  # a document's version and text
COMMANDS = ["fillFunction", "fillHere", "rewrite", "nextCandidate", "acceptWord", "acceptLine"]
SETTINGS: list[Any] = [
    {"model": "one"},
    {"model": "another"},
    {"debounce_ms": 1},
    {"debounce_ms": 0},
    {"related_files": True},
    {"related_files": False},
    {"exclude": ["*0.py"]},
    {"exclude": []},
    {"exclude": 5, "talaria": 7},
    {"status": True, "steps": True},
    "nonsense",
]


class GatedEndpoint:
    """Answers by the length of the prefix, each time the machine opens a gate."""

    waiting = 0.0
    gates: list[asyncio.Future[None]] = []  # noqa: RUF012  # shared, so that a machine finds all

    async def fill(
        self, prefix: str, suffix: str, max_tokens: int, count: int, *_: object
    ) -> list[str]:
        """Middles, some of them broken."""
        gate: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.gates.append(gate)
        await gate
        said = ["value", "value = 1\nother", "return value", "", "😀 = valué", "value "]
        first = len(prefix) % len(said)
        return (said[first:] + said[:first])[:count]

    async def close(self) -> None:
        """Nothing is open."""


class GatedEngines(Engines):
    """Engines without a model, with a gated endpoint."""

    def _load(self) -> None:
        self._endpoint = GatedEndpoint()  # type: ignore[assignment]
        self._set_state("ready", "scripted")


@dataclass
class PendingRequest:
    """A request without an answer yet, and the state of the text that it is about.

    waits  for another command's edit, so that it is about whatever text that leaves
    """

    method: str
    uri: str
    state: State
    waits: bool = False


class EditorMachine(RuleBasedStateMachine):
    """An editor at work."""

    def __init__(self) -> None:
        super().__init__()
        self.patched = patch("talaria.lsp.server.Engines", GatedEngines)
        self.patched.start()
        GatedEndpoint.gates = []
        self.runner = asyncio.Runner()
        self.folder = tempfile.TemporaryDirectory()
        self.texts: dict[str, str] = {}
        self.versions: dict[str, int] = {}
        self.number = 0
        self.pace = 8  # turns of the loop after each message
        self.sent: dict[str, State] = {}  # states that the server has seen
        self.asked: dict[int, PendingRequest] = {}
        self.asking: list[dict[str, Any]] = []  # requests of the server's
        self.offered: dict[str, tuple[State, list[dict[str, Any]]]] = {}
        self.shown: list[str] = []
        self.wrong: list[Exception] = []

    # The wire

    def write(self, data: bytes) -> None:
        """A message from the server; errors are raised later, outside of the server's own code."""
        try:
            self.read(json.loads(data))
        except Exception as error:
            self.wrong.append(error)

    def read(self, message: dict[str, Any]) -> None:
        """A message from the server."""
        if "method" not in message:
            asked = self.asked.pop(message["id"])  # KeyError where it was answered already
            result = message.get("result")
            if asked.method in (INLINE, COMPLETION) and result:
                # What is shown is for the text as it is now, whatever came between.
                items = result if asked.method == INLINE else result["items"]
                if items:
                    assert asked.state[1] in self.current(asked.uri)
                if items and asked.method == INLINE:
                    self.offered[asked.uri] = asked.state, items
            if "error" in message:
                assert message["error"]["code"] in (-32800, -32602), message
        elif "id" in message:
            # An edit is for a text that somebody who still waits has asked about.
            uri = message["params"]["edit"]["documentChanges"][0]["textDocument"]["uri"]
            assert any(
                asked.method == EXECUTE
                and asked.uri == uri
                and (asked.waits or asked.state[1] in self.current(uri))
                for asked in self.asked.values()
            )
            self.asking.append(message)
        elif message["method"] == "window/showMessage":
            self.shown.append(message["params"]["message"])

    def close(self) -> None:
        """As a stream has it."""

    def say(self, method: str, params: object, number: int | str | None = None) -> None:
        """Send a message and let the server process it."""
        message: dict[str, Any] = {"jsonrpc": "2.0", "method": method, "params": params}
        if number is not None:
            message["id"] = number
        self.take(message)

    def take(self, message: dict[str, Any]) -> None:
        """Give the server a message."""

        async def work() -> None:
            await self.server.protocol.receive(json.dumps(message))
            self.sent = self.states()
            for _ in range(self.pace):
                await asyncio.sleep(0)

        self.runner.run(work())

    def ask(self, method: str, uri: str, params: object) -> int:
        """Send a request; its number."""
        self.number += 1
        waits = method == EXECUTE and any(name in str(params) for name in COMMANDS[3:])
        self.asked[self.number] = PendingRequest(method, uri, self.state(uri), waits)
        self.say(method, params, self.number)
        return self.number

    def state(self, uri: str) -> State:
        """Version and text of a document, which an answer must match."""
        return self.versions.get(uri), self.texts.get(uri)

    def current(self, uri: str) -> set[str | None]:
        """The texts that a message of the server's may be about.

        The message may have crossed a change that was sent just now, and a change may leave the
        text as it was, so that versions say too much.
        """
        return {self.texts.get(uri), self.sent.get(uri, (None, None))[1]}

    def states(self) -> dict[str, State]:
        """The states of all texts."""
        return {uri: self.state(uri) for uri in self.texts}

    def position(self, uri: str, place: int) -> tuple[int, dict[str, int]]:
        """An offset that does not split a line ending, and its position in UTF-16."""
        text = self.texts.get(uri, "")
        place %= len(text) + 1
        if text[place - 1 : place + 1] == "\r\n":
            place += 1
        lines = re.split("\r\n|\r|\n", text[:place])
        units = len(lines[-1].encode("utf-16-le", "surrogatepass")) // 2
        return place, {"line": len(lines) - 1, "character": units}

    def offset(self, uri: str, position: dict[str, int]) -> int:
        """The offset of a position, which must exist in the text."""
        return next(
            place
            for place in range(len(self.texts[uri]) + 1)
            if self.position(uri, place) == (place, position)
        )

    def change(self, uri: str, start: int, end: int, new: str) -> None:
        """Edit a document."""
        (start, first), (end, last) = self.position(uri, start), self.position(uri, end)
        text = self.texts[uri]
        self.texts[uri] = text[:start] + new + text[end:]
        self.versions[uri] += 1
        self.say(
            "textDocument/didChange",
            {
                "textDocument": {"uri": uri, "version": self.versions[uri]},
                "contentChanges": [{"range": {"start": first, "end": last}, "text": new}],
            },
        )

    # What may happen

    @initialize(completes=st.booleans())
    def begin(self, completes: bool) -> None:
        """The editor starts the server."""

        async def start() -> TalariaServer:
            server = TalariaServer(ServerOptions(), Usage(Path(self.folder.name)))
            register(server)
            server.protocol.set_writer(self, include_headers=False)
            return server

        self.server = self.runner.run(start())
        options = {
            "debounce_ms": 0,
            "completion": completes,
            "languages": ["python", "text"],
            "related_files": False,
        }
        capabilities = {"workspace": {"workspaceEdit": {"documentChanges": True}}}
        params: dict[str, Any] = {"capabilities": capabilities, "processId": None, "rootUri": None}
        self.ask("initialize", "", params | {"initializationOptions": options})
        self.say("initialized", {})
        self.completes = completes
        for uri in URIS:
            self.open(uri, FIRST)

    @rule(which=st.sampled_from(URIS), text=st.lists(PIECES, max_size=8).map("".join))
    def open(self, which: str, text: str) -> None:
        """Open a document, perhaps again."""
        self.texts[which], self.versions[which] = text, self.versions.get(which, 0) + 1
        language = "text" if which == URIS[1] else "python"
        item = {"uri": which, "languageId": language, "version": self.versions[which], "text": text}
        self.say("textDocument/didOpen", {"textDocument": item})

    @rule(which=st.sampled_from(URIS), again=st.sampled_from([None, FIRST, FIRST, FIRST]))
    def shut(self, which: str, again: str | None) -> None:
        """Close a document, open or not; usually open it again."""
        self.texts.pop(which, None)
        self.say("textDocument/didClose", {"textDocument": {"uri": which}})
        if again is not None:
            self.open(which, again)

    @rule(which=st.sampled_from(URIS), start=PLACES, length=st.integers(0, 5), new=PIECES)
    def edit(self, which: str, start: int, length: int, new: str) -> None:
        """Replace a part of a document."""
        if which in self.texts:
            start %= len(self.texts[which]) + 1
            self.change(which, start, min(start + length, len(self.texts[which])), new)

    @rule(which=st.sampled_from(URIS), text=PIECES)
    def replace_all(self, which: str, text: str) -> None:
        """Replace the whole text, or change nothing at all."""
        if which in self.texts:
            self.versions[which] += 1
            changes = [{"text": text}] if text else []
            self.texts[which] = text or self.texts[which]
            document = {"uri": which, "version": self.versions[which]}
            self.say(
                "textDocument/didChange", {"textDocument": document, "contentChanges": changes}
            )

    @rule(
        which=st.sampled_from(URIS),
        place=PLACES,
        kind=st.sampled_from([1, 2, 2, 2]),
        completion=st.booleans(),
        then=st.sampled_from([None, 0, 0, 1, 3, 99, 99]),
    )
    def request(
        self, which: str, place: int, kind: int, completion: bool, then: int | None
    ) -> None:
        """Request a suggestion, at the end of a line if there is one; perhaps accept some of it."""
        ends = [found.start() for found in re.finditer(r"$", self.texts.get(which, ""), re.M)]
        if place % 4 and ends:
            place = ends[place % len(ends)]
        position = self.position(which, place)[1]
        params: dict[str, Any] = {"textDocument": {"uri": which}, "position": position}
        if completion and self.completes:
            self.ask(COMPLETION, which, params)
        else:
            self.ask(INLINE, which, params | {"context": {"triggerKind": kind}})
        if then is not None:
            self.let_answer(-1)
            self.accept(which, then, said=then > 3)

    @rule(
        which=st.sampled_from(URIS),
        command=st.sampled_from(COMMANDS + COMMANDS[:3]),
        start=PLACES,
        length=st.integers(-9, 30),
        at_once=st.booleans(),
    )
    def command(self, which: str, command: str, start: int, length: int, at_once: bool) -> None:
        """Execute a command that may write something."""
        text = self.texts.get(which, "")
        spots = [found.start() for found in re.finditer(r"def|pass|TODO|\.\.\.", text)]
        start = spots[start % len(spots)] if start % 4 and spots else start % (len(text) + 1)
        end = max(0, start + length) if length > 0 else start
        place = {
            "start": self.position(which, start)[1],
            "end": self.position(which, end)[1],
        }
        argument = {"uri": which, "range": place} if command in COMMANDS[:3] else which
        params = {"command": f"talaria.{command}", "arguments": [argument]}
        self.ask(EXECUTE, which, params)
        if at_once:
            self.let_answer(-1)
            self.answer_edit(length % 4 > 0)

    @rule(which=st.sampled_from(URIS), start=PLACES)
    def look_for_actions(self, which: str, start: int) -> None:
        """Ask for code actions."""
        position = self.position(which, start)[1]
        self.ask(
            "textDocument/codeAction",
            which,
            {
                "textDocument": {"uri": which},
                "range": {"start": position, "end": position},
                "context": {"diagnostics": []},
            },
        )

    @rule(language=st.sampled_from(["", "python", "cobol"]), which=st.sampled_from(URIS))
    def toggle(self, language: str, which: str) -> None:
        """Switch off, ask in vain, and switch on again."""
        params = {"command": "talaria.toggle", "arguments": [language]}
        self.ask(EXECUTE, "", params)
        self.request(which, 0, 1, completion=False, then=None)
        self.ask(EXECUTE, "", params)

    @rule(pace=st.sampled_from([0, 1, 8]))
    def set_pace(self, pace: int) -> None:
        """Send faster than the server works, or wait for it."""
        self.pace = pace

    @rule(which=PLACES)
    def cancel(self, which: int) -> None:
        """Cancel a pending request, or an unknown one."""
        waiting = [number for number, each in self.asked.items() if each.uri]
        number = waiting[which % len(waiting)] if waiting else which
        self.say("$/cancelRequest", {"id": number})

    @rule(which=st.sampled_from(URIS), characters=st.sampled_from([0, 1, 99]), said=st.booleans())
    def accept(self, which: str, characters: int, said: bool) -> None:
        """Accept what is on screen, or type some of it."""
        state, items = self.offered.get(which, (None, []))
        if characters and items and state == self.state(which):
            place = self.offset(which, items[0]["range"]["end"])
            self.change(which, place, place, items[0]["insertText"][:characters])
            if said:
                self.ask(EXECUTE, "", items[0]["command"])

    @rule(which=st.sampled_from(URIS))
    def dismiss(self, which: str) -> None:
        """Dismiss what is on the screen."""
        self.offered.pop(which, None)
        self.say("talaria/didDismiss", {"uri": which})

    @rule(settings=st.sampled_from(SETTINGS))
    def configure(self, settings: object) -> None:
        """Change settings, perhaps to invalid ones."""
        self.say("workspace/didChangeConfiguration", {"settings": settings})

    @rule(which=PLACES)
    def let_answer(self, which: int) -> None:
        """Let the endpoint finish an answer."""
        gates = [gate for gate in GatedEndpoint.gates if not gate.done()]

        async def work() -> None:
            if gates:
                gates[which % len(gates)].set_result(None)
            for _ in range(self.pace):
                await asyncio.sleep(0)

        self.runner.run(work())

    @rule(taken=st.booleans())
    def answer_edit(self, taken: bool) -> None:
        """Apply an edit of the server's to its version, or reject it."""
        if not self.asking:
            return
        request = self.asking.pop(0)
        assert request["method"] == "workspace/applyEdit"
        applied = False
        [change] = request["params"]["edit"]["documentChanges"]
        uri, version = change["textDocument"]["uri"], change["textDocument"]["version"]
        if taken and uri in self.texts and version == self.versions[uri]:
            [edit] = change["edits"]
            start, end = (self.offset(uri, edit["range"][side]) for side in ("start", "end"))
            self.change(uri, start, end, edit["newText"])
            applied = True
        self.take({"jsonrpc": "2.0", "id": request["id"], "result": {"applied": applied}})

    # What must hold

    @invariant()
    def texts_agree(self) -> None:
        """The server has the documents that the editor has."""
        if self.wrong:
            raise self.wrong[0]
        if hasattr(self, "server"):
            files = self.server.files
            assert {uri: file.document.text for uri, file in files.items()} == {
                uri: plain(text) for uri, text in self.texts.items()
            }

    def teardown(self) -> None:
        """Everything pending is answered, and nothing is left over."""
        try:
            if hasattr(self, "server"):
                self.finish()
        finally:
            self.runner.close()
            self.patched.stop()
            self.folder.cleanup()

    def finish(self) -> None:
        """Answer everything, end the server, and check that nothing is left."""
        server, self.pace = self.server, 8
        for _ in range(200):
            waiting = [gate for gate in GatedEndpoint.gates if not gate.done()]
            if not (self.asked or self.asking or waiting or len(server._tasks) > 1):
                break
            self.let_answer(0)
            self.answer_edit(taken=True)
            self.runner.run(asyncio.sleep(0 if waiting else 0.005))
        assert not self.asked
        protocol = server.protocol
        assert not protocol._request_futures
        asked = [file.computing for file in server.files.values() if file.computing]
        assert all(each.task.done() for each in asked)
        assert server.engines is None or not server.engines._newest
        self.ask("shutdown", "", None)
        self.runner.run(asyncio.sleep(0.01))
        for _ in range(500):
            if self.asked:
                self.runner.run(asyncio.sleep(0.01))
        assert not self.asked
        self.say("exit", None)
        assert protocol.exited

        async def tasks() -> set[asyncio.Task[Any]]:
            return asyncio.all_tasks() - {asyncio.current_task()}

        assert not self.runner.run(tasks())
        assert not self.wrong


EditorMachine.TestCase.settings = settings(
    max_examples=max(1, OPERATIONS // STEPS),
    stateful_step_count=STEPS,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
TestEditorMachine = EditorMachine.TestCase
