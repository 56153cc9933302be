"""The page shows what happened, needs nothing else, and interprets nothing of the file."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from talaria.coder.canvas import Canvas
from talaria.coder.checkpoint import Checkpoint
from talaria.coder.families.talaria import TalariaTokenizer
from talaria.coder.infill import infill
from talaria.coder.request import Mode, Options
from talaria.coder.results import Candidate, Frame, Infill, Stopped
from talaria.coder.sampler import Step
from talaria.coder.syntax.judge import judge
from talaria.coder.trace import LINES_AFTER, LINES_BEFORE, TEMPLATE, WIDEST, changes, page, pieces

EVIL = "# </script><script>alert('{{data}}')</script></noscript><!-- &amp; é \u2028\u2029\n"
PREFIX = EVIL * 30 + "x = "
SUFFIX = "\n<b onclick=alert(1)>\n"


class Reader(HTMLParser):
    """The elements of a page with their attributes, and the text of each script."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Keep what opens."""
        self.elements.append((tag, dict(attrs)))
        if tag == "script":
            self.scripts.append("")

    def handle_data(self, data: str) -> None:
        """Keep what a script holds."""
        if self.cdata_elem == "script":
            self.scripts[-1] += data


def data_of(text: str) -> dict[str, Any]:
    """The data that the page's script reads."""
    data: dict[str, Any] = json.loads(Reader(text).scripts[0])
    return data


def replayed(steps: list[dict[str, Any]], kept: int | None = None) -> str:
    """The middle that the script shows at the end."""
    cells: list[str | None] = []
    for step in steps:
        cells += [None] * (step["start"] + step["length"] - len(cells))
        for place, *rest in step["set"]:
            cells[place] = rest[0] if rest else None
    return "".join(text or "" for text in cells[: steps[-1]["end"]][:kept])


def made(
    tokenizer: TalariaTokenizer,
    canvases: list[list[list[int]]],
    stopped: Stopped,
    limit: int | None,
) -> Infill:
    """A result of one row whose canvases went through the given states."""
    frames = []
    middle: list[int] = []
    for number, states in enumerate(canvases):
        canvas = Canvas.blank(1, len(states[0]), tokenizer.marks)
        before = canvas.ids
        for state in states:
            canvas = Canvas(np.array([state]), tokenizer.marks)
            committed = (canvas.ids != before) & (canvas.ids != tokenizer.mask)
            sure = np.where(committed, np.float32(0.25), np.float32(0))
            frames.append(Frame(number, [0], Step(canvas, committed, sure, np.array([False]))))
            before = canvas.ids
        middle += canvas.middle(0)
    middle = middle[:limit]
    best = Candidate(tokenizer.decode(middle), middle, stopped, None, 0)
    return Infill([best], len(frames), 1.0, 3, 0, judge("", best.text, ""), frames)


@pytest.mark.parametrize("mode", ["diffuse", "ar"])
@pytest.mark.parametrize("candidates", [1, 3])
@pytest.mark.parametrize("seed", range(4))
def test_the_page_replays_the_request(
    model: Checkpoint, mode: Mode, candidates: int, seed: int
) -> None:
    """Every candidate, step by step, up to the very text that was offered."""
    options = Options(
        mode,
        candidates,
        max_tokens=(12, 24)[seed % 2],
        temperature=1.0,
        check_syntax=seed % 2 == 0,  # else what a random model writes is cut to nothing
        seed=seed,
    )
    result = infill(model, PREFIX, SUFFIX, options)
    data = data_of(page(result, model, PREFIX, SUFFIX))
    assert len(data["candidates"]) == len(result.candidates)
    for shown, candidate in zip(data["candidates"], result.candidates, strict=True):
        frames = [frame for frame in result.frames if candidate.row in frame.rows]
        assert len(shown["steps"]) == len(frames)
        assert replayed(shown["steps"], shown["kept"]) == candidate.text
        for step, frame in zip(shown["steps"], frames, strict=True):
            place = frame.rows.index(candidate.row)
            committed = [change for change in step["set"] if len(change) == 4]
            assert len(committed) == int(frame.step.committed[place].sum())
            for position, _, token, sure in committed:
                at = position - step["start"]
                assert token == int(frame.step.canvas.ids[place, at])
                assert sure == pytest.approx(float(frame.step.confidence[place, at]), abs=1e-3)


def test_the_page_stands_alone(model: Checkpoint) -> None:
    """No address and no import, in the template or in what is filled in."""
    result = infill(model, PREFIX, SUFFIX, Options(max_tokens=8))
    text = page(result, model, PREFIX, SUFFIX)
    for word in ("http:", "https:", "src=", "href=", "@import", "url(", "fetch("):
        assert word not in TEMPLATE.read_text(encoding="utf-8")
        assert word not in text


def test_texts_of_the_file_stay_text(model: Checkpoint) -> None:
    """No script, element or attribute comes from a file, and no placeholder is filled twice."""
    plain = page(infill(model, "x", "y", Options(max_tokens=8)), model, "x", "y")
    text = page(infill(model, PREFIX, SUFFIX, Options(max_tokens=8)), model, PREFIX, SUFFIX)
    known = {(tag, *attributes) for tag, attributes in Reader(plain).elements}
    assert {(tag, *attributes) for tag, attributes in Reader(text).elements} == known
    assert text.count("<script") == text.count("</script>") == 2
    assert text.count("<noscript") == text.count("</noscript") == 1
    assert re.findall(r"\{\{.*?\}\}", text)  # the file's own
    assert set(re.findall(r"\{\{.*?\}\}", text)) == {"{{data}}"}
    raw = re.search(r'type="application/json">(.*?)</script>', text, re.DOTALL)
    assert raw
    assert raw[1].isascii()
    assert not re.search("[<>&]", raw[1])


def test_only_the_neighbourhood_is_shown(model: Checkpoint) -> None:
    """Some lines on either side, and never all of an endless line."""
    result = infill(model, PREFIX, SUFFIX, Options(max_tokens=8))
    data = data_of(page(result, model, PREFIX, "\nrest" * 40))
    assert PREFIX.endswith(data["before"])
    assert data["before"].endswith("x = ")
    assert PREFIX.count("\n") == data["above"] + data["before"].count("\n")
    assert len(data["after"].splitlines()) == LINES_AFTER
    assert data["after"].count("\n") + data["below"] == 40
    wide = data_of(page(result, model, "a" * 50_000, "b" * 50_000))
    assert (len(wide["before"]), len(wide["after"])) == (WIDEST, WIDEST)
    assert len("x\n" * LINES_BEFORE) == len(data_of(page(result, model, "x\n" * 90, ""))["before"])


def test_half_a_surrogate_pair_does_no_harm(model: Checkpoint) -> None:
    """A text that no encoding takes still gives a page that can be written."""
    result = infill(model, "x", "y", Options(max_tokens=8))
    assert page(result, model, "\ud800", "\udfff").encode()


def test_without_scripts_all_candidates_are_listed(model: Checkpoint) -> None:
    """The final text and a line for every step of each."""
    result = infill(model, PREFIX, SUFFIX, Options(candidates=3, max_tokens=16, seed=1))
    text = page(result, model, PREFIX, SUFFIX)
    static = text[text.index("<noscript>") : text.index("</noscript>")]
    assert static.count("<pre>") == static.count("<ol>") == len(result.candidates)
    steps = [s for c in data_of(text)["candidates"] for s in c["steps"]]
    assert static.count("<li>") == len(steps)


@given(ids=st.lists(st.integers(0, 255), max_size=30))
def test_the_pieces_are_the_text(model: Checkpoint, ids: list[int]) -> None:
    """However many tokens share a character, and whatever stray bytes there are."""
    assert not set(ids) & set(model.tokenizer.special.values())
    assert "".join(text or "" for text in pieces(ids, model)) == model.tokenizer.decode(ids)


def test_parts_of_a_character_are_shown_together(
    model: Checkpoint, tokenizer: TalariaTokenizer
) -> None:
    """A character of several tokens appears once all of them are there, two not as one."""
    ids = tokenizer.encode("a😀ßb")
    assert len(ids) > 6
    assert [text for text in pieces(ids, model) if text] == ["a", "😀", "ß", "b"]
    holed = [ids[0], tokenizer.mask, *ids[2:]]
    assert pieces(holed, model)[1] is None


def test_a_completed_character_keeps_its_step(
    model: Checkpoint, tokenizer: TalariaTokenizer
) -> None:
    """A neighbour that completes it changes the text alone; a canvas' edge does not matter."""
    first, second = tokenizer.encode("ß")
    result = made(tokenizer, [[[first]], [[second]]], "max_tokens", None)
    one, two = changes(result, result.best, model)
    assert one["set"] == [[0, "\ufffd", first, 0.25]]
    assert two["set"] == [[0, "ß"], [1, "", second, 0.25]]
    assert two["start"] == 1


def test_tokens_become_masks_again(model: Checkpoint, tokenizer: TalariaTokenizer) -> None:
    """What stands after `<eom>` is taken back, and `<eom>` itself is committed."""
    mask, eom = tokenizer.mask, tokenizer.eom
    a, b = tokenizer.encode("a")[0], tokenizer.encode("b")[0]
    states = [[mask, mask, b], [a, eom, mask]]
    result = made(tokenizer, [states], "eom", None)
    steps = changes(result, result.best, model)
    assert steps[1]["set"] == [[0, "a", a, 0.25], [1, "<eom>", eom, 0.25], [2]]
    assert [step["end"] for step in steps] == [None, 1]
    assert replayed(steps) == "a"


def test_what_max_tokens_cut_off_is_no_part_of_the_text(
    model: Checkpoint, tokenizer: TalariaTokenizer
) -> None:
    """Not even where it would complete a character of what is kept."""
    ids = tokenizer.encode("aß")
    result = made(tokenizer, [[ids]], "max_tokens", 2)
    shown = data_of(page(result, model, "", ""))["candidates"][0]
    assert shown["kept"] == 2
    assert replayed(shown["steps"]).startswith("a\ufffd")
    assert replayed(shown["steps"], shown["kept"]) == result.best.text == "a\ufffd"
