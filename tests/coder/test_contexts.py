"""A remembered context is the one that reading anew would give."""

from __future__ import annotations

import math
import random
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from talaria.coder import contexts as contexts_module
from talaria.coder.backbone import Array, Backbone, KVCache
from talaria.coder.checkpoint import Checkpoint
from talaria.coder.contexts import Contexts, common_prefix
from talaria.coder.errors import UsageError
from talaria.coder.families.talaria import TalariaTokenizer
from talaria.coder.infill import Memory, context_of, fill
from talaria.coder.request import Mode, Options, Request
from tests.coder.holes import CODE
from tests.coder.qwen2 import tiny


def read(backbone: Backbone, cache: KVCache, last: int) -> Array:
    """The log-probabilities of a canvas after a context."""
    states = backbone.denoise(np.arange(8)[None], cache, [last])
    found = backbone.candidates(states[0], 10_000)
    logs: Array = np.take_along_axis(found.log_probabilities, found.ids.argsort(1), 1)
    return logs


def test_common_prefix() -> None:
    """Where two sequences part, or the shorter ends."""
    assert common_prefix([1, 2, 3], [1, 2, 4, 5]) == 2
    assert common_prefix([1, 2], [1, 2, 3]) == 2
    assert common_prefix([], [1]) == 0
    assert common_prefix([2], [1]) == 0


def test_a_reused_context_gives_what_a_fresh_one_gives(backbone: Backbone) -> None:
    """Whatever is appended, taken back or changed, in whichever of three documents."""
    rng = random.Random(0)
    contexts = Contexts(backbone, 150)
    documents = [[rng.randrange(300) for _ in range(rng.randint(2, 40))] for _ in range(3)]
    reused = []
    for _ in range(60):
        ids = documents[rng.randrange(3)]
        if rng.random() < 0.3:
            del ids[rng.randrange(1, len(ids)) :]
        if rng.random() < 0.2:
            ids[rng.randrange(len(ids))] = rng.randrange(300)
        ids += [rng.randrange(300) for _ in range(rng.randint(0, 4))]
        cache, shared = contexts.encode(ids)
        assert cache is not None
        _, fresh = backbone.encode([ids])
        one, other = read(backbone, cache, ids[-1]), read(backbone, fresh, ids[-1])
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-5)
        assert cache.next_position.tolist() == fresh.next_position.tolist()
        reused.append(shared / len(ids))
    assert sum(reused) / len(reused) > 0.5


def test_a_step_leaves_a_remembered_context_as_it_was(backbone: Backbone) -> None:
    """Also one that was left in its midst, as a cancelled request leaves it."""
    contexts = Contexts(backbone)
    ids = list(range(20))
    cache, _ = contexts.encode(ids)
    assert cache is not None
    before = read(backbone, cache, 19)
    backbone.encode([[7, 8]], cache)
    again, shared = contexts.encode(ids)
    assert again is not None
    assert shared == len(ids)
    assert np.array_equal(read(backbone, again, 19), before)


@pytest.mark.parametrize("leave", [1, 4])
def test_the_last_tokens_may_be_left(backbone: Backbone, leave: int) -> None:
    """As many as are new, at most so many, at least one; whoever reads them keeps them."""
    contexts = Contexts(backbone)
    ids = list(range(30))
    for new, left in ((ids[:20], leave), (ids[:22], min(leave, 2)), (ids[:22], 1)):
        cache, _ = contexts.encode(new, leave=leave)
        assert cache is not None
        assert cache.valid.shape[1] == len(new) - left
        _, more = backbone.encode([new[-left:]], cache)
        contexts.extend(new, more, 0)
        assert contexts.unread(new) == 0
        assert contexts.tokens == len(new)  # in the place of the one before
        _, fresh = backbone.encode([new])
        one, other = read(backbone, more, new[-1]), read(backbone, fresh, new[-1])
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-5)
    assert contexts.encode(ids[:1], leave=leave)[0] is not None


def test_a_long_middle_leaves_no_copies_of_its_context(backbone: Backbone) -> None:
    """However short the context is that it was written behind; what is known is not kept again."""
    contexts = Contexts(backbone)
    other = list(range(200, 230))
    contexts.encode(other)
    for typed in range(20, 28):
        ids, middle = list(range(typed)), list(range(100, 160))
        cache, _ = contexts.encode(ids, leave=1)
        assert cache is not None
        _, cache = backbone.encode([[ids[-1], *middle]], cache)
        contexts.extend([*ids, *middle], cache, len(middle))
        contexts.extend(ids, cache.first(len(ids)), 0)
        assert [len(each.ids) for each in contexts.kept] == [30, typed + 60]
    assert contexts.unread(other) == 0


@pytest.mark.parametrize("mode", ["verify", "ar"])
def test_a_key_takes_no_pass_of_its_own(
    model: Checkpoint, monkeypatch: pytest.MonkeyPatch, mode: Mode
) -> None:
    """What was typed is read with the first token of the middle; the middle is kept, too."""
    passes: list[int] = []
    real = model.backbone.evaluate

    def evaluate(ids: Array, *more: Any, **others: Any) -> Any:
        passes.append(ids.shape[1])
        return real(ids, *more, **others)

    monkeypatch.setattr(model.backbone, "evaluate", evaluate)
    memory, options = Memory(model), Options(mode, max_tokens=12, check_syntax=False)
    typed = "    result = [value"
    for count in range(8, len(typed) + 1):
        request = Request(CODE[0] + typed[:count], "\n", options)
        passes.clear()
        found = fill(model, request, memory=memory)
        if count > 8:
            assert len(passes) == found.nfe
        assert found.best.text == fill(model, request).best.text
    context = context_of(model, request)
    kept = memory.contexts.kept[-1].ids
    assert len(kept) > len(context)
    assert kept == [*context, *found.best.tokens][: len(kept)]


def test_what_was_read_before_a_stop_is_kept(
    backbone: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A long context is read in passes; stopped between two of them, it is gone on with."""
    monkeypatch.setattr(backbone, "pass_length", 8)
    contexts = Contexts(backbone)
    ids = list(range(30))
    answers = iter([None, None, "cancelled"])
    cache, shared = contexts.encode(ids, lambda: next(answers))
    assert (cache, shared) == (None, 0)
    assert [context.ids for context in contexts.kept] == [ids[:16]]
    cache, shared = contexts.encode(ids)
    assert cache is not None
    assert shared == 16
    _, fresh = backbone.encode([ids])
    one, other = read(backbone, cache, 29), read(backbone, fresh, 29)
    np.testing.assert_allclose(one, other, rtol=0, atol=1e-5)
    assert contexts.encode(list(range(50, 60)), lambda: "cancelled") == (None, 0)


def test_what_is_read_ahead_is_read_in_short_passes(
    backbone: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is left to read can be asked meanwhile; long and short passes give the same."""
    monkeypatch.setattr(contexts_module, "AHEAD", 8)
    contexts, ids, left = Contexts(backbone), list(range(30)), []
    assert contexts.unread(ids) == 30
    contexts.encode(ids, lambda: left.append(contexts.unread(ids)), ahead=True)
    assert left == [30, 22, 14, 6]
    assert contexts.unread(ids) == 0
    assert contexts.unread([*ids[:20], 90, 91]) == 2
    cache, shared = contexts.encode(ids)
    assert cache is not None
    assert shared == 30
    _, fresh = backbone.encode([ids])
    one, other = read(backbone, cache, 29), read(backbone, fresh, 29)
    np.testing.assert_allclose(one, other, rtol=0, atol=1e-5)


def test_a_warm_model_has_a_pace_and_keeps_nothing(backbone: Backbone) -> None:
    """Nobody will ask about what was read to time it."""
    contexts = Contexts(backbone)
    contexts.warm_up()
    assert 0 < contexts.pace.seconds(100) < math.inf
    assert not contexts.kept


def test_memory_is_bounded_and_what_was_used_last_stays(backbone: Backbone) -> None:
    """A document that moves on keeps one place; the one that waited longest goes first."""
    contexts = Contexts(backbone, 100)
    one, two, three = ([k] * 40 for k in (1, 2, 3))
    for ids in (one, two, [*one, 5], three):
        contexts.encode(ids)
    assert [context.ids for context in contexts.kept] == [[*one, 5], three]
    assert contexts.tokens == 81
    contexts.encode([9] * 200)  # longer than all that may be kept: it is being asked about
    assert [len(context.ids) for context in contexts.kept] == [200]
    with pytest.raises(UsageError, match="capacity is 0"):
        Contexts(backbone, 0)


@pytest.mark.parametrize("mode", ["diffuse", "verify", "ar"])
def test_typing_gives_the_same_texts_and_reads_little(model: Checkpoint, mode: str) -> None:
    """Key by key, with the keys taken back once and a second document between."""
    memory = Memory(model)
    options = Options(mode, max_nfe=8)  # type: ignore[arg-type]
    suffix = "\n\n\ndef other():\n    return 1\n"
    typed = "import os\n\n\ndef join(parts):\n    result = os.path.jo"
    prefixes = [typed[:end] for end in (*range(30, len(typed)), 35, 36, len(typed))]
    read = total = 0
    for number, prefix in enumerate(prefixes):
        request = Request(prefix, "" if number % 5 == 4 else suffix, options)
        found, fresh = fill(model, request, memory=memory), fill(model, request)
        assert (found.best.text, found.nfe) == (fresh.best.text, fresh.nfe)
        assert fresh.reused_tokens == 0
        assert found.context_tokens == fresh.context_tokens
        read += found.context_tokens - found.reused_tokens
        total += found.context_tokens
    assert read < 0.3 * total


def test_typing_in_a_long_file_gives_the_same_texts(model: Checkpoint) -> None:
    """On a context as long as the model may read, whose beginning is cut."""
    longer = replace(model.settings, working_context=512)
    model = replace(model, settings=longer)
    text = "\n\n".join(CODE * 4)
    memory, options = Memory(model), Options(max_tokens=8, check_syntax=False)
    reused = []
    for end in range(3000, 3030):
        request = Request(text[:end], text[3100:], options)
        found = fill(model, request, memory=memory)
        assert found.best.text == fill(model, request).best.text
        assert found.context_tokens > 350
        reused.append(found.reused_tokens / found.context_tokens)
    assert sum(share > 0.95 for share in reused) >= 0.9 * len(reused)


def test_contexts_of_others_are_never_used(backbone: Backbone) -> None:
    """Whatever was read for one owner is read again for another, by every way to a context."""
    rng = random.Random(0)
    contexts = Contexts(backbone)
    seen: dict[str, list[list[int]]] = {"ada": [], "bob": [], "eve": []}
    for _ in range(60):
        owner = rng.choice(list(seen))
        base = rng.choice([[], *(ids for each in seen.values() for ids in each)])
        ids = base[: rng.randrange(len(base) + 1)] + [rng.randrange(300) for _ in range(3)]
        known = max((common_prefix(ids, each) for each in seen[owner]), default=0)
        assert len(ids) - contexts.unread(ids, owner) <= known
        _, reused = contexts.encode(ids, owner=owner)
        assert reused <= known
        seen[owner].append(ids)
    assert {each.owner for each in contexts.kept} == set(seen)


def test_contexts_have_a_limit_of_bytes(backbone: Backbone) -> None:
    """The least recently used go, whoever's they are."""
    _, cache = backbone.encode([[1] * 10])
    size = sum(each.nbytes for each in (*cache.keys, *cache.values))
    contexts = Contexts(backbone, most_bytes=3 * size)
    for number in range(20):
        contexts.encode([number] * 10, owner=number % 7)
        assert contexts.bytes <= 3 * size
    assert [each.ids[0] for each in contexts.kept] == [17, 18, 19]


def test_contexts_serve_many_threads(backbone: Backbone) -> None:
    """Nothing that one of them keeps is lost to another."""
    contexts = Contexts(backbone, capacity=10_000)

    def work(number: int) -> None:
        for length in range(1, 20):
            contexts.encode([number] * length, owner=number)

    with ThreadPoolExecutor(6) as threads:
        list(threads.map(work, range(6)))
    assert sorted((each.owner, len(each.ids)) for each in contexts.kept) == [
        (number, 19) for number in range(6)
    ]


class Typist:
    """Types into a document, and counts the tokens that a model reads for the request of each key.

    The model is one that runs on, with room for no more than a part of the document.
    """

    def __init__(self, model: Checkpoint, prefix: str, suffix: str) -> None:
        settings = replace(model.settings, bounded=True, working_context=512)
        self.model = replace(model, settings=settings)
        self.memory, self.prefix, self.suffix = Memory(self.model), prefix, suffix

    def edit(self, typed: str, ahead: str = "", deleted: int = 0, over: int = 0) -> int:
        """Delete before the cursor, skip what stands behind it, type; `ahead` appears behind it."""
        self.prefix = self.prefix[: len(self.prefix) - deleted] + self.suffix[:over] + typed
        self.suffix = ahead + self.suffix[over:]
        request = Request(self.prefix, self.suffix, Options(max_tokens=8))
        context = context_of(self.model, request)
        _, reused = self.memory.contexts.encode(context)
        assert len(context) > 250
        return len(context) - reused

    def move(self, lines: int) -> int:
        """Go up or down to the end of another line."""
        text = self.prefix + self.suffix
        row = self.prefix.count("\n") + lines
        end = [place for place, sign in enumerate(text) if sign == "\n"][row]
        self.prefix, self.suffix = text[:end], text[end:]
        return self.edit("")


def test_typing_in_one_place_reads_what_is_new(tokenizer: TalariaTokenizer) -> None:
    """Letters, Enter, deleting, brackets and quotes that the editor closes, and lines in them."""
    code = "\n\n".join(CODE * 3)
    place = code.index("    return found")
    typist = Typist(tiny(tokenizer._bpe), code[: place - 1], code[place - 1 :])
    typist.edit("")
    for typed in ("\n    ", *"other = len"):
        assert typist.edit(typed) <= 4
    for typed, ahead in (("(", ")"), ('"', '"')):
        assert typist.edit(typed, ahead) <= 4
    for typed in "text":
        assert typist.edit(typed) <= 4
    assert typist.edit("", over=1) <= 4
    assert typist.edit("", over=1) <= 4
    for typed, ahead in (("\n    ", ""), ("x = [", "]"), ("\n        ", "\n    "), ("1,", "")):
        assert typist.edit(typed, ahead) <= 4
    for deleted in (1, 1, 4, 5):
        assert typist.edit("", deleted=deleted) <= 4


def test_going_back_to_a_line_reads_nothing(tokenizer: TalariaTokenizer) -> None:
    """Another line has another suffix, and that stands first; but each is read once."""
    code = "\n\n".join(CODE * 6)
    typist = Typist(tiny(tokenizer._bpe), code[: len(code) // 2], code[len(code) // 2 :])
    first = [typist.move(lines) for lines in (0, 1, 1, -1, -1)]
    assert all(read > 250 for read in first[:3])
    assert first[3:] == [0, 0]
    for typed in "\n    x":
        assert typist.edit(typed) <= 4
