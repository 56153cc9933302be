"""The decisions of the language server, without an editor."""

from __future__ import annotations

import asyncio
from concurrent.futures import Future

import pytest
from hypothesis import given
from hypothesis import strategies as st

from talaria.coder.engine import Pending
from talaria.coder.errors import UsageError
from talaria.coder.request import Options, Request
from talaria.coder.results import Candidate, Infill
from talaria.coder.syntax.functions import function_at
from talaria.coder.syntax.judge import Verdict
from talaria.lsp.actions import writable
from talaria.lsp.engines import ENDPOINT_TOKENS, SAMPLING_TEMPERATURE, Engines, Middles
from talaria.lsp.fills import Fill, Filled, fills_at, function, here, rewrite
from talaria.lsp.inline import (
    CACHED,
    DISMISSED,
    Computing,
    Inline,
    InlineSuggestion,
    SuggestionOutcome,
    distinct,
)
from talaria.lsp.options import ServerOptions
from talaria.lsp.rhythm import LONGEST, Rhythm

SOME = InlineSuggestion("a = ", "\nb", ("foo(1)", "foobar", "x"))
WORDS = st.text("ab", max_size=4)


# What is remembered


@pytest.mark.parametrize(
    ("prefix", "suffix", "texts"),
    [
        ("a = ", "\nb", ("foo(1)", "foobar", "x")),
        ("a = foo", "\nb", ("(1)", "bar")),
        ("a = x", "\nb", None),
        ("a = y", "\nb", None),
        ("a =", "\nb", None),
        ("a = ", "\nc", None),
    ],
)
def test_typing_through(prefix: str, suffix: str, texts: tuple[str, ...] | None) -> None:
    """The rest of each text that fits; none of a text typed to its end."""
    found = SOME.advanced(prefix, suffix)
    assert (found and found.texts) == texts
    assert found is None or found.prefix == prefix


def test_an_empty_suggestion_applies_to_its_position_only() -> None:
    """One more key asks again."""
    nothing = InlineSuggestion("a", "b", ())
    assert nothing.advanced("a", "b") == nothing
    assert nothing.advanced("ax", "b") is None


def test_the_newest_that_fits_is_cached() -> None:
    """The cache is bounded."""
    inline = Inline()
    inline.store(SOME)
    inline.store(InlineSuggestion("a = f", "\nb", ("unc",)))
    for place, texts in (("a = f", ("unc",)), ("a = fo", ("o(1)", "obar"))):
        found = inline.cached(place, "\nb")
        assert found
        assert found.texts == texts
    for number in range(CACHED):
        inline.store(InlineSuggestion(str(number), "", ("x",)))
    assert inline.cached("a = ", "\nb") is None


@pytest.mark.parametrize(
    ("prefix", "suffix", "texts"),
    [
        ("f(", ")\n", ("x, [y]",)),
        ("f(x, [", "])\n", ("y",)),
        ("f(", "]\n", None),
        ("f", ")\n", None),
        ("f(", "z)\n", None),
    ],
)
def test_typing_through_with_closed_brackets(
    prefix: str, suffix: str, texts: tuple[str, ...] | None
) -> None:
    """A bracket that the editor inserted after the cursor is not part of the rest."""
    found = InlineSuggestion("f", "\n", ("(x, [y])", "()")).advanced(prefix, suffix)
    assert (found and found.texts) == texts
    assert found is None or (found.prefix, found.suffix) == (prefix, suffix)


# What becomes of what is shown


def shown(text: str = "foo(1)\nbar") -> Inline:
    """A suggestion on the screen."""
    inline = Inline()
    inline.store(InlineSuggestion("a", "z", (text,)))
    inline.show("a", "z", (text, "other"), "automatic")
    return inline


def test_accepting_all() -> None:
    """The change contains all of it."""
    inline = shown()
    assert inline.changed("afoo(1)\nbarz") == SuggestionOutcome("accepted", "automatic", 10)
    assert inline.shown is None
    assert inline.changed("anything") is None


def test_accepting_a_part() -> None:
    """A word, a key, and then something else."""
    inline = shown()
    assert inline.changed("afooz") is None
    assert inline.changed("afoo(z") is None
    assert inline.shown
    assert inline.shown.texts == ("1)\nbar",)
    assert inline.changed("afoo(xz") == SuggestionOutcome("partially_accepted", "automatic", 3)


def test_typing_it_is_not_an_acceptance() -> None:
    """Nor a dismissal."""
    inline = shown("xy")
    assert inline.changed("axz") is None
    assert inline.changed("axyz") is None
    assert inline.shown is None


@pytest.mark.parametrize("texts", [["f()\n"], ["f(\n", "f()\n"]])
def test_a_closed_bracket_is_not_a_dismissal(texts: list[str]) -> None:
    """Whether both characters arrive in one change or in two."""
    inline = Inline()
    inline.show("f", "\n", ("(x, y)",), "automatic")
    for text in texts:
        assert inline.changed(text) is None
    assert inline.shown
    assert (inline.shown.prefix, inline.shown.suffix) == ("f(", ")\n")
    assert inline.shown.texts == ("x, y",)
    assert inline.changed("f(x, y)\n") == SuggestionOutcome("accepted", "automatic", 4)


def test_a_pair_of_brackets_may_be_typed() -> None:
    """A change of two characters is not an acceptance if the editor may have inserted one."""
    inline = Inline()
    inline.show("f", "\n", ("()",), "automatic")
    assert inline.changed("f()\n") is None
    assert inline.shown is None


@pytest.mark.parametrize("text", ["aqz", "z", "afoo(1)", "afoo(1)\nbarzz"])
def test_another_text_dismisses(text: str) -> None:
    """By typing something else, deleting, or editing elsewhere."""
    assert shown().changed(text) == SuggestionOutcome("dismissed", "automatic", 0)


@pytest.mark.parametrize(
    ("text", "back"),
    [
        ("person in payment.shared_by:", False),
        ("person in payment.shared_by:\n        person.pay()", False),
        ("person in payment", False),
        ("(person in payment.shared_by:", False),
        (" in payment.shared_by:", True),  # behind a name of the user's own
        ("member in payment.members:", True),
    ],
)
def test_what_is_typed_against_does_not_come_back(text: str, back: bool) -> None:
    """As it was, longer, shorter, or behind something; what is right behind another name does."""
    inline = Inline()
    inline.show("for ", "\n", ("person in payment.shared_by:",), "automatic")
    assert inline.changed("for m\n")
    found = inline.without_rejected(InlineSuggestion("for m", "\n", (text,), invoked=False))
    assert (found is not None) is back


def test_the_rest_is_the_same_suggestion() -> None:
    """A different text is a new one, and ends the former."""
    inline = shown()
    inline.changed("afooz")
    number, ended, new = inline.show("afoo", "z", ("(1)\nbar",), "invoked")
    assert (number, ended, new) == (1, None, False)
    number, ended, new = inline.show("afoo", "z", ("else",), "invoked")
    assert (number, ended, new) == (
        2,
        SuggestionOutcome("partially_accepted", "automatic", 3),
        True,
    )
    assert inline.accept() == SuggestionOutcome("accepted", "invoked", 4)
    assert inline.accept() is None


def test_a_dismissed_suggestion_does_not_come_back() -> None:
    """Nor its rest; another key is another position."""
    inline = shown()
    assert inline.dismiss() == SuggestionOutcome("dismissed", "automatic", 0)
    assert inline.dismiss() is None
    assert inline.cached("a", "z") is None
    assert inline.dismissed_at("a", "z")
    assert inline.dismissed_at("afoo", "z")
    assert not inline.dismissed_at("ax", "z")
    assert not inline.dismissed_at("", "z")
    assert inline.was_dismissed("", "z", "afoo(1)\nbar")
    assert not inline.was_dismissed("", "z", "other")


def test_dismissals_last_while_other_lines_change() -> None:
    """The last few, each while the lines around it stay."""
    inline = Inline()
    for line in "uvw":
        inline.show(f"import os\n\n{line}\na = ", f"\n{line}\nend", ("foo",), "automatic")
        inline.dismiss()
    for line in "uvw":
        assert inline.dismissed_at(f"import re, os\n\n\n{line}\na = ", f"\n{line}\n")
        assert inline.dismissed_at(f"{line}\na = fo", f"\n{line}\nanything")
        assert inline.was_dismissed(f"{line}\na = fo", f"\n{line}\n", "o")
        assert not inline.was_dismissed(f"{line}\na = fo", f"\n{line}\n", "or")
    for prefix, suffix in (("x\na = ", "\nu\n"), ("u\na = ", "\nx\n"), ("u\nb = ", "\nu\n")):
        assert not inline.dismissed_at(prefix, suffix)
    for number in range(DISMISSED):
        inline.show(str(number), "", ("foo",), "automatic")
        inline.dismiss()
    assert not inline.dismissed_at("u\na = ", "\nu\n")


@given(WORDS, WORDS, st.lists(WORDS.filter(bool), min_size=1), st.lists(WORDS, max_size=6))
def test_what_is_shown_is_the_rest(
    prefix: str, suffix: str, texts: list[str], edits: list[str]
) -> None:
    """After any edits: what is shown is the end of what was shown first."""
    inline = Inline()
    inline.show(prefix, suffix, tuple(texts), "automatic")
    ended = 0
    for edit in edits:
        text = prefix + edit + suffix
        ended += inline.changed(text) is not None
        if inline.shown:
            assert inline.shown.prefix + inline.shown.suffix == text
            assert all(inline.shown.texts)
            assert any(edit + inline.shown.texts[0] == each for each in texts)
    assert ended <= 1


def test_distinct_texts() -> None:
    """In their order."""
    assert distinct(["a", "b", "a", "c"], 2) == ("a", "b")


# The rhythm


def typed(gap: float, answer: float, keys: int = 10) -> Rhythm:
    """Keys at this interval, with answers that take this long."""
    rhythm = Rhythm()
    for key in range(keys):
        rhythm.key(key * gap)
        rhythm.answered(answer)
    return rhythm


def test_slow_typing_is_not_debounced() -> None:
    """Nor are the first keys."""
    assert Rhythm().wait() == 0
    assert typed(gap=0.2, answer=0.1).wait() == 0
    assert typed(gap=0.2, answer=0.1, keys=1).wait() == 0


def test_fast_typing_is_debounced() -> None:
    """A little longer than the usual interval, up to a limit; pauses do not count."""
    assert typed(gap=0.1, answer=0.3).wait() == pytest.approx(0.12)
    assert typed(gap=0.9, answer=2.0).wait() == LONGEST
    assert typed(gap=5, answer=9).wait() == 0
    rhythm = typed(gap=0.1, answer=0.3)
    for key in range(100):
        rhythm.key(2 + key * 0.5)
    assert rhythm.wait() == 0


# What can be filled


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("x = ...", "..."),
        ("def f(): ...", " ..."),
        ("def f(): x = ...", "..."),
        ("def f():\n    'Say.'\n    ...\n", None),
        ("    pass  # for now", "pass"),
        ("raise NotImplementedError", "raise NotImplementedError"),
        ("raise NotImplementedError('no (') # )", "raise NotImplementedError('no (')"),
        ("# and so on ...", None),
        ("x = '''\n...\n'''", None),
        ("'# TODO'", None),
        ("f('...')  # or ...\nx = ...", None),
        ("raise NotImplementedError('no')", "raise NotImplementedError('no')"),
        ("bypass", None),
        ("x.pass", None),
        ("a[...]", None),
        ("f(...)", None),
        ("passed = 1", None),
        ("x = 1", None),
        ("raise NotImplementedErrors", None),
    ],
)
def test_placeholders(text: str, found: str | None) -> None:
    """Placeholder code, and nothing else."""
    fill = here(text, 0, text.find("\n", 0, 9) + 1)
    assert (fill and text[fill.start : fill.end]) == found


@pytest.mark.parametrize("more", ["", "  # for now", "\n\n\ny = 1\n"])
def test_a_placeholder_on_the_line_of_its_header(more: str) -> None:
    """The body gets lines of its own, as for the function around it."""
    text = f"class A:\n    def f(self): ...{more}"
    fill = here(text, text.index("def"), text.index("def"))
    assert fill
    assert fill.cut(text) == ("class A:\n    def f(self):\n        ", more)


def test_a_todo() -> None:
    """The code goes below it, with its indentation."""
    text = "def f():\n    # TODO count\n    return 1\n"
    fill = here(text, text.index("TODO"), text.index("TODO"))
    assert fill
    assert fill.cut(text) == ("def f():\n    # TODO count\n    ", "\n    return 1\n")
    long = here("# TODO " + "x" * 200, 0, 0)
    assert long
    assert len(long.title) < 80


def test_a_selection() -> None:
    """Without surrounding whitespace; of several lines, the first placeholder counts."""
    text = "a\n  b + c \n..."
    fill = rewrite(text, 1, 11)
    assert fill
    assert text[fill.start : fill.end] == "b + c"
    assert rewrite(text, 1, 3) is None
    assert here(text, 0, 11) is None
    assert here(text, 0, 13)


@given(st.text("a \n#TODO.pass():def", max_size=60), st.integers(0, 60), st.integers(0, 60))
def test_fills_are_parts_of_the_text(text: str, one: int, other: int) -> None:
    """In any text: the replaced range lies inside, and nothing around it changes."""
    start, end = sorted((min(one, len(text)), min(other, len(text))))
    for fill in fills_at(text, start, end):
        assert 0 <= fill.start <= fill.end <= len(text)
        prefix, suffix = fill.cut(text)
        assert prefix == text[: fill.start] + fill.lead
        assert suffix == text[fill.end :]


def test_function() -> None:
    """The one around the cursor."""
    text = "def f(a):\n    return a\n\n\nx = 1\n"
    [fill] = fills_at(text, 5, 5)
    body = function_at(text, 5)
    assert body
    assert fill == Fill("function", "Write the body of f", body.start, body.end, body.lead, "block")
    assert fills_at(text, len(text), len(text)) == []


def test_candidates_wrap_around() -> None:
    """The first follows the last."""
    filled = Filled("", "", ("a", "b"))
    assert [filled.text, filled.next().text, filled.next().next().text] == ["a", "b", "a"]


# Who answers


class Loading(Engines):
    """Loads until the test makes it fail."""

    def _load(self) -> None:
        """Do nothing."""

    def fail(self) -> None:
        """There is no model."""
        self._engine.set_exception(UsageError("no model"))
        self._set_state("failed", "no model")


class ScriptedEndpoint:
    """Answers with the prefix, after a while."""

    waiting = 0.0

    async def fill(self, prefix: str, *_: object) -> list[str]:
        """One middle."""
        await asyncio.sleep(0.01)
        return [prefix]

    async def close(self) -> None:
        """Nothing is open."""


def loading(endpoint: object = None) -> Loading:
    """Engines without a model, and perhaps with an endpoint."""
    engines = Loading(ServerOptions(), lambda *_: None, lambda *_: None)
    engines._endpoint = endpoint  # type: ignore[assignment]
    return engines


def ask(engines: Engines, document: str, prefix: str) -> asyncio.Task[Middles]:
    """A request that is being answered."""
    return asyncio.create_task(engines.ask(Request(prefix, "", document=document)))


class ScriptedEngine:
    """An engine whose model always answers with these candidates."""

    def __init__(self, *candidates: Candidate) -> None:
        self.infill = Infill([*candidates], 1, 0.0, 0, 0, Verdict(0, 0), [])
        self.model: Future[object] = Future()
        self.model.set_result("a model")

    def submit(self, request: Request, on_frame: object = None) -> Pending:
        """An answer that is already there."""
        pending = Pending(request, request.document, None, 0.0, None)
        pending.future.set_result(self.infill)
        return pending

    def close(self) -> None:
        """Nothing runs."""


@pytest.mark.parametrize("complete", [False, True])
def test_the_embedded_model_writes_nothing_that_its_engine_refuses(complete: bool) -> None:
    """Only texts that a command would write are checked; trimmed ones are checked again."""
    request = Request(
        "def f():\n    ", "\n", ServerOptions().decoding(complete=complete), replaces="pass"
    )
    engine = ScriptedEngine(
        Candidate("return 0", [], "eom", None, 0, refused="the engine says no"),
        Candidate("for x in a:", [], "eom", None, 1, refused="it lacks a body"),
        Candidate("return 1\n", [], "eom", None, 2),
        Candidate("pass", [], "eom", None, 3),
    )

    async def check() -> None:
        engines = loading()
        engines._engine.set_result(engine)  # type: ignore[arg-type]
        middles = await engines.ask(request)
        assert middles.texts[0] == "return 0"
        texts, reason = await writable(middles, request)
        if complete:
            assert (texts, reason) == (["return 1"], "the engine says no")
        else:
            assert texts == ["return 0", "return 1"]
            assert reason
            assert "adds a syntax error" in reason
        await engines.close()

    asyncio.run(check())


def test_a_newer_request_to_an_endpoint_supersedes_an_older_one() -> None:
    """Of the same document only; closing cancels all; nothing is left over."""

    async def check() -> None:
        engines = loading(ScriptedEndpoint())
        older, other, newer = (ask(engines, *it) for it in (("a", "1"), ("b", "2"), ("a", "3")))
        await asyncio.wait([older, other, newer])
        assert older.cancelled()
        assert other.result().texts == ("2",)
        assert newer.result().texts == ("3",)
        assert not engines._newest
        last = ask(engines, "a", "4")
        await asyncio.sleep(0)
        await engines.close()
        await asyncio.wait([last])
        assert last.cancelled()
        assert not engines._newest
        assert not engines.available

    asyncio.run(check())


def test_closing_cancels_requests_that_wait_for_the_model() -> None:
    """Before there is an engine to cancel them."""

    async def check() -> None:
        engines = loading()
        waiting = ask(engines, "a", "1")
        await asyncio.sleep(0.01)
        await engines.close()
        await asyncio.wait([waiting])
        assert waiting.cancelled()
        assert engines.statistics() == {"state": "closed"}

    asyncio.run(check())


def test_cancelling_one_request_leaves_the_model_to_others() -> None:
    """A request cancelled while the model loads cancels only itself."""

    async def check() -> None:
        states: list[str] = []
        engines = Loading(ServerOptions(), lambda state, _: states.append(state), lambda *_: None)
        assert not engines.available
        assert engines.statistics() == {"state": "loading"}
        first, second = ask(engines, "a", "1"), ask(engines, "b", "2")
        await asyncio.sleep(0.01)
        first.cancel()
        await asyncio.wait([first])
        assert not engines._engine.cancelled()
        engines.fail()
        with pytest.raises(UsageError, match="no model"):
            await second
        assert states == ["failed"]
        assert engines.statistics() == {"state": "failed"}
        await engines.close()

    asyncio.run(check())


def test_an_endpoint_is_bounded_and_an_invalid_one_reported() -> None:
    """The bounds of a request apply to the endpoint too; without it, the embedded model answers."""

    class Verbose(ScriptedEndpoint):
        """Says too much."""

        async def fill(self, *given: object) -> list[str]:
            asked.append(given)
            return ["x = 1\ny = 2\n"]

    asked: list[tuple[object, ...]] = []

    async def check() -> None:
        messages: list[str] = []
        engines = Loading(
            ServerOptions(endpoint="nonsense"), lambda *_: None, lambda *said: messages.extend(said)
        )
        assert messages == [
            "endpoint is not a URL: give one like https://host/v1/completions. The embedded "
            "model answers.",
            "endpoint is not a URL: give one like https://host/v1/completions",
        ]
        engines._endpoint = Verbose()  # type: ignore[assignment]
        assert engines.available
        answer = await engines.ask(Request("", "", Options(until="line"), document="a"))
        assert answer.texts == ("x = 1",)
        options = Options(candidates=2, max_tokens=7)
        await engines.ask(Request("", "b", options, document="a", seconds=0.5))
        # A function is longer than a line, so it gets more tokens by default.
        assert asked == [
            ("", "", ENDPOINT_TOKENS, 1, 0.0, None),
            ("", "b", 7, 2, SAMPLING_TEMPERATURE, 0.5),
        ]
        await engines.close()

    asyncio.run(check())


def test_the_blank_line_of_an_empty_function_is_replaced() -> None:
    """The one with the cursor; blank lines after it stay."""
    text = 'def f():\n    """Say."""\n    \n\n\nx = 1\n'
    fill = function(text, text.index("    \n") + 4)
    assert fill is not None
    assert text[: fill.start] + fill.lead + "return 1" + text[fill.end :] == (
        'def f():\n    """Say."""\n    return 1\n\n\nx = 1\n'
    )


def test_a_suggestion_in_the_making_serves_those_who_type_along() -> None:
    """As soon as the model has written something, unless they type something else."""

    async def check() -> None:
        done = asyncio.Event()

        async def compute() -> None:
            await done.wait()

        task = asyncio.create_task(compute())
        made = Computing("x = ", "\n", False, task)
        assert made.serves("x = ", "\n", False)
        assert not made.serves("x = ", "\n", True)  # by hand: several are wanted
        assert not made.serves("x = s", "\n", False)
        waiting = asyncio.create_task(made.go_on())
        await asyncio.sleep(0)
        made.write("sum(")
        await waiting
        assert made.serves("x = s", "\n", False)
        assert made.serves("x = sum(val", "\n", False)  # it may write that, too
        for prefix, suffix in (("x = t", "\n"), ("x = su", ")\n"), ("x", "\n")):
            assert not made.serves(prefix, suffix, False)
        done.set()
        await made.go_on()
        assert not made.serves("x = ", "\n", False)

    asyncio.run(check())
