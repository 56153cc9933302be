"""Silent failures of training: leaks, bias, and samples that differ from use."""

from __future__ import annotations

import copy
import re
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from talaria.coder.families.talaria import TalariaTokenizer
from talaria.coder.families.talaria_torch import TorchBackbone, Transformer
from talaria.finetune.batch import IGNORED, choose_canvases, make_batch, stratified
from talaria.finetune.corpus import CorpusDocument
from talaria.finetune.joint import block_mask, masks_agree
from talaria.finetune.objective import Objective
from talaria.finetune.samples import SPANS, Sample, Samples, choose_span
from talaria.finetune.validate import token_bytes

LENGTH, BLOCK, CANVAS_TOKENS = 128, 8, 64

SOURCE = '''"""A module."""


class Account:
    """Money, kept."""

    def __init__(self, owner, balance=0):
        self.owner = owner
        self.balance = balance

    def deposit(self, amount):
        if amount <= 0:
            raise ValueError("amount must be positive: été")
        self.balance += amount
        return self.balance
'''


@pytest.fixture(scope="module")
def samples(tokenizer: TalariaTokenizer) -> Samples:
    """Samples of two packages with six files, whose longer words all differ."""
    texts = [re.sub(r"\w{5,}", rf"\g<0>{i}", SOURCE) for i in range(6)]
    documents = [CorpusDocument(f"p{i % 2}", f"m{i}.py", text) for i, text in enumerate(texts)]
    assert len({document.text for document in documents}) == 6
    return Samples(documents, tokenizer, LENGTH, 40, seed=1)


def test_a_sample_is_a_function_of_its_number(
    samples: Samples, tokenizer: TalariaTokenizer
) -> None:
    """It does not depend on samples drawn before."""
    again = Samples(samples.documents, tokenizer, LENGTH, 40, seed=1)
    order = [37, 2, 11]
    assert [again[i] for i in order] == [samples[i] for i in sorted(order, key=order.index)]
    assert [samples[i].ids for i in range(20)] != [
        Samples(samples.documents, tokenizer, LENGTH, 40, seed=2)[i].ids for i in range(20)
    ]


@given(index=st.integers(0, 10_000))
def test_the_layout_of_samples(samples: Samples, tokenizer: TalariaTokenizer, index: int) -> None:
    """Rows fit, regions hold no marks, and middles follow `<mid>` and end in `<eom>`."""
    sample = samples[index]
    assert len(sample.ids) <= LENGTH
    for start, end in sample.regions:
        assert all(token < tokenizer.mask for token in sample.ids[start:end])
    for start, end in sample.middles:
        assert sample.ids[start - 1] == tokenizer.mid
        assert sample.ids[end - 1] == tokenizer.eom
        assert tokenizer.eom not in sample.ids[start : end - 1]
    assert sample.ids.count(tokenizer.eom) == len(sample.middles)


def test_a_middle_includes_the_healed_token(
    samples: Samples, tokenizer: TalariaTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A middle starts with the last token of the prefix if the span cuts through it."""
    seen: list[str] = []
    real = tokenizer.last_token

    def last_token(prefix: str) -> str:
        seen.append(real(prefix))
        return seen[-1]

    monkeypatch.setattr(tokenizer, "last_token", last_token)
    rng = np.random.default_rng(0)
    healed = 0
    for _ in range(60):
        found = samples.infilling(0, 0, "line_end", 200, rng)
        if found is not None:
            ((start, end),) = found.middles
            assert tokenizer.decode(found.ids[start : end - 1]).startswith(seen[-1])
            assert not found.ids[start - 1] < tokenizer.mask
            healed += bool(seen[-1])
    assert healed > 10


def test_a_hole_and_its_surroundings_are_the_file(
    samples: Samples, tokenizer: TalariaTokenizer
) -> None:
    """Prefix, middle and suffix joined are a range of one file.

    Pieces of other files of the same package, each after its path, precede them.
    """
    whole = others = 0
    for index in range(200):
        sample = samples[index]
        for start, end in sample.middles:
            ids = sample.ids[:end]
            suf, pre = (
                max(i for i, token in enumerate(ids) if token == mark)
                for mark in (tokenizer.suf, tokenizer.pre)
            )
            parts = ids[pre + 1 : start - 1], ids[start : end - 1], ids[suf + 1 : pre]
            text = "".join(map(tokenizer.decode, parts)).strip("�")
            files = {i for i, document in enumerate(samples.documents) if text in document.text}
            assert files
            whole += len(files) == 1
            # The piece starts after the previous one, or with the row.
            at = max((i for i in range(suf) if ids[i] in (tokenizer.eom, tokenizer.pre)), default=0)
            for mark in (i for i in range(at, suf) if ids[i] == tokenizer.file):
                end = next(i for i in range(mark + 1, suf + 1) if ids[i] > tokenizer.mask)
                path, other = tokenizer.decode(ids[mark + 1 : end]).split("\n", 1)
                number = int(path[1])
                assert other.strip("�") in samples.documents[number].text
                assert number not in files or len(files) > 1
                assert any((number - file) % 2 == 0 for file in files)
                others += 1
    assert whole > 100
    assert others > 10


def test_ends_of_middles_do_not_depend_on_the_position(samples: Samples) -> None:
    """Middles end all over the row, at no position with high probability.

    When every row ended in a middle, a model learned to write `<eom>` only at the last position.
    """
    rows = 1000
    ends = [end for index in range(rows) for _, end in samples[index].middles]
    assert len(ends) > rows / 2
    counts = np.bincount(ends, minlength=LENGTH + 1)
    assert counts.max() < 0.05 * rows
    assert (counts[LENGTH // 4 :: 8] > 0).mean() > 0.9


@pytest.mark.parametrize("kind", SPANS)
def test_spans_lie_in_the_text(kind: str) -> None:
    """Spans lie within the text; line ends stop at a line break, nodes are not blank."""
    rng = np.random.default_rng(0)
    for _ in range(200):
        span = choose_span(SOURCE, kind, rng)
        assert span is not None
        start, end = span
        assert 0 <= start <= end <= len(SOURCE)
        if kind == "line_end":
            assert "\n" not in SOURCE[start:end]
            assert SOURCE[end] == "\n"
        if kind == "node":
            assert SOURCE[start:end].strip()
    assert choose_span("", kind, rng) in (None, (0, 0))


def test_a_body_is_what_a_documented_function_does() -> None:
    """A body excludes the docstring and may include the indentation before it."""
    text = (
        "def one(a):\n    return a\n\n\n"
        'def two(a):\n    """Twice."""\n    b = 2 * a\n    return b\n\n\n'
        'def three(a):\n    """Nothing."""\n'
    )
    rng = np.random.default_rng(0)
    spans = {choose_span(text, "body", rng) for _ in range(50)}
    assert {text[span[0] : span[1]] for span in spans if span} == {
        "b = 2 * a\n    return b",
        "    b = 2 * a\n    return b",
    }
    assert choose_span("x = 1\n", "body", rng) is None
    plain = choose_span("def one(a):\n    return a\n", "body", rng)
    assert plain is not None
    assert plain[1] == 24


def test_a_body_begins_where_decoding_begins() -> None:
    """Behind comments that precede the first statement, and behind joined docstrings."""
    text = (
        'def one(a):\n    """Twice."""\n    # It is simple.\n    return 2 * a\n\n\n'
        "def two(a):\n    'Three' ' times.'\n    return 3 * a\n\n\n"
        "def three(a):\n    b'None'\n    return a\n"
    )
    rng = np.random.default_rng(0)
    spans = {choose_span(text, "body", rng) for _ in range(50)}
    assert {text[span[0] : span[1]].strip() for span in spans if span} == {
        "return 2 * a",
        "return 3 * a",
    }


def test_documented_functions_are_visited_more_often(tokenizer: TalariaTokenizer) -> None:
    """Windows with them are visited twice in a pass over the corpus, others once."""
    plain = CorpusDocument("p", "a.py", "x = 1\n" * 30)
    begin = 'mode="r"):\n        """Begin."""'
    documented = CorpusDocument("p", "b.py", SOURCE.replace("balance=0):", begin))
    samples = Samples([plain, documented], tokenizer, LENGTH, 40, seed=0)
    assert sorted({samples.windows[i][0]: 0 for i in range(len(samples.windows))}) == [0, 1]
    assert [number for number, _ in samples.windows].count(1) >= 2
    assert [number for number, _ in samples.windows].count(0) == 1


def test_a_kind_keeps_its_share_where_it_is_rare(tokenizer: TalariaTokenizer) -> None:
    """Places without the drawn kind are replaced by others; no other kind appears."""
    plain = [CorpusDocument("p", f"{i}.py", f"spam_{i} = {i}\n" * 6) for i in range(2)]
    function = 'def two(a):\n    """Twice."""\n    return 2 * a\n\n\nx = two(3)\n'
    documents = [*plain, CorpusDocument("p", "c.py", function)]
    samples = Samples(documents, tokenizer, 200, 40, seed=0, spans={"body": 1.0})
    rows = [samples[i] for i in range(60)]
    middles = [row.ids[a:b] for row in rows for a, b in row.middles]
    pieces = sum(row.ids.count(tokenizer.pre) for row in rows)
    assert len(middles) > 0.4 * pieces  # plain text also ends each row
    assert {tokenizer.decode(middle).strip() for middle in middles} == {"return 2 * a"}


@given(seed=st.integers(0, 1000), block_length=st.sampled_from([1, 2, 4, 8]))
def test_canvases_look_like_use(
    samples: Samples, tokenizer: TalariaTokenizer, seed: int, block_length: int
) -> None:
    """Positions are contiguous; after `<eom>` all is masked and not counted."""
    rng = np.random.default_rng(seed)
    rows = [samples[seed * 3 + i] for i in range(3)]
    batch = make_batch(rows, tokenizer, LENGTH, block_length, CANVAS_TOKENS, rng)
    for row, sample in enumerate(rows):
        for number in range(CANVAS_TOKENS // block_length):
            at = slice(number * block_length, (number + 1) * block_length)
            if (batch.block[row, at] == -1).all():
                assert not batch.weight[row, at].any()
                continue
            start = int(batch.start[row, at][0])
            limit = next((b for a, b in sample.middles if a <= start < b), len(sample.ids))
            assert batch.position[row, at].tolist() == list(range(start, start + block_length))
            for token, target, place in zip(
                batch.canvas[row, at].tolist(),
                batch.target[row, at].tolist(),
                batch.position[row, at].tolist(),
                strict=True,
            ):
                if place >= limit:
                    assert (token, target) == (tokenizer.mask, IGNORED)
                elif target != IGNORED:
                    assert (token, target) == (tokenizer.mask, sample.ids[place])
                elif token != tokenizer.mask:
                    assert token == sample.ids[place]


def test_canvases_cover_the_middle_block_after_block() -> None:
    """They are placed as in decoding, the first at the middle's first token."""
    sample = Sample(list(range(60)), [(1, 30)], [(40, 60)])
    chosen = choose_canvases(sample, 8, 8, np.random.default_rng(0))
    assert chosen == sorted(chosen)
    assert chosen[-3:] == [(40, 48), (48, 56), (56, 60)]
    assert len(chosen) == 8
    assert all(a >= 1 and b <= 30 for a, b in chosen[:-3])


def test_the_bound_is_unbiased_in_t(tokenizer: TalariaTokenizer) -> None:
    """In the mean over masking levels, every token has the same weight."""
    sample = Sample([tokenizer.mid, *range(1, 8), tokenizer.eom], [], [(1, 9)])
    rng = np.random.default_rng(0)
    draws = 20_000
    total = torch.zeros(BLOCK, dtype=torch.float64)
    for _ in range(draws // 100):
        batch = make_batch([sample] * 100, tokenizer, 16, BLOCK, BLOCK, rng)
        counted = batch.target != IGNORED
        total += (batch.weight * counted).double().sum(0) * 100
    # Weights average over 100 rows of 8 tokens: each has an expectation of 1/8.
    torch.testing.assert_close(total / draws, torch.full_like(total, 1 / BLOCK), rtol=0.1, atol=0)


def test_the_next_tokens_of_a_middle_count_more(
    samples: Samples, tokenizer: TalariaTokenizer
) -> None:
    """By the requested factor, and the weights of a batch sum to one."""
    rows = [samples[i] for i in range(12)]
    rng = np.random.default_rng(0)
    batch = make_batch(rows, tokenizer, LENGTH, BLOCK, 0, rng, middle_weight=5.0)
    torch.testing.assert_close(batch.next_weight.sum(), torch.tensor(1.0))
    assert not batch.next_weight[batch.next_token == IGNORED].any()
    lightest = batch.next_weight[batch.next_weight > 0].min()
    for row, sample in enumerate(rows):
        for begin, end in sample.middles:
            inside = batch.next_weight[row, begin - 1 : end - 1]
            torch.testing.assert_close(inside, torch.full_like(inside, 5 * float(lightest)))


def test_the_losses_ignore_marks_and_padding(
    transformer: Transformer, samples: Samples, tokenizer: TalariaTokenizer
) -> None:
    """Layout marks and padding are never targets; `<eom>` is one, in both losses."""
    rows = [samples[i] for i in range(40)]
    batch = make_batch(rows, tokenizer, LENGTH, BLOCK, CANVAS_TOKENS, np.random.default_rng(0))
    for targets in (batch.next_token, batch.target):
        seen = set(targets.flatten().tolist())
        assert tokenizer.eom in seen
        assert not seen & {tokenizer.mask, tokenizer.suf, tokenizer.pre, tokenizer.mid}
    next_token, bound, chain = Objective(transformer, tokenizer.mask)(batch)
    assert 0 < next_token < 50
    assert 0 < bound < 100
    assert 0 < chain < 100
    bare = make_batch(rows, tokenizer, LENGTH, BLOCK, 0, np.random.default_rng(0))
    alone, *none = Objective(transformer, tokenizer.mask)(bare)
    torch.testing.assert_close(alone, next_token, rtol=1e-4, atol=1e-4)
    assert none == [0, 0]


def test_special_tokens_are_known_by_name(tokenizer: TalariaTokenizer) -> None:
    """Not by their ids, which may lie in any order: here the mask has the highest."""
    moved = copy.copy(tokenizer)
    moved.mask, moved.file = tokenizer.file, tokenizer.mask
    sentinels = [moved.file, moved.suf, moved.pre, moved.mid]
    sample = Sample([moved.file, 5, moved.suf, 6, moved.pre, 7, moved.mid, 8, moved.eom], [], [])
    batch = make_batch([sample], moved, 16, BLOCK, 0, np.random.default_rng(0))
    assert batch.next_token[0, :8].tolist() == [
        IGNORED if token in sentinels else token for token in sample.ids[1:]
    ]
    sizes = token_bytes(moved)
    assert sizes.nonzero()[:, 0].tolist() == [
        token for token in range(moved.vocab_size) if token not in moved.special.values()
    ]


def test_the_chain_loss_matches_decoding(
    transformer: Transformer, samples: Samples, tokenizer: TalariaTokenizer
) -> None:
    """The chain loss equals that of the decoder's own calls, on both kinds of canvases."""
    rows = [samples[i] for i in range(6)]
    rng = np.random.default_rng(0)
    mixed = {"suffix_share": 0.5, "end_share": 0.5}
    batch = make_batch(rows, tokenizer, LENGTH, BLOCK, CANVAS_TOKENS, rng, **mixed)
    bounding = batch.weight.shape[1]
    assert bounding == CANVAS_TOKENS // 2
    *_, measured = Objective(transformer, tokenizer.mask)(batch)
    backbone = TorchBackbone(transformer, tokenizer.marks)
    total, whole = 0.0, 0
    for row in range(len(rows)):
        for first in range(0, CANVAS_TOKENS, BLOCK):
            own = slice(first, first + BLOCK)
            target, canvas = batch.target[row, own], batch.canvas[row, own]
            masked = (target != IGNORED).nonzero().flatten().tolist()
            if batch.block[row, first] < 0 or not masked:
                continue
            if first >= bounding:  # chain-only: masked from some token on
                assert masked == [*range(masked[0], masked[-1] + 1)]
                whole += masked[0] == 0
            before = batch.context[row, : batch.start[row, first]].tolist()
            _, cache = backbone.encode([before])
            hidden = backbone.denoise(canvas[None].numpy(), cache, before[-1:])
            clean = torch.where(target == IGNORED, canvas, target)
            given = torch.cat((torch.tensor([tokenizer.mask]), clean[:-1]))
            past: tuple[torch.Tensor, ...] = ()
            for place in range(BLOCK):
                here = slice(place, place + 1)
                states, past = backbone.chain(hidden[:, here], given[None, here].numpy(), past)
                if target[place] != IGNORED:
                    chances = transformer.logits(states[0, 0]).log_softmax(-1)
                    weight = batch.chain_weight[row, first + place]
                    total -= float(weight * chances[target[place]])
    assert whole
    assert measured == pytest.approx(total, rel=1e-4)


@pytest.mark.parametrize("share", [0.0, 0.4, 0.6, 1.0])
def test_both_kinds_of_canvases_are_placed_alike(
    samples: Samples, tokenizer: TalariaTokenizer, share: float
) -> None:
    """Chain-only canvases have the requested share, and neither kind comes earlier in the row."""
    rows, count = [samples[i] for i in range(12)], 10
    rng = np.random.default_rng(0)
    batch = make_batch(rows, tokenizer, LENGTH, BLOCK, count * BLOCK, rng, suffix_share=share)
    cut = batch.weight.shape[1] // BLOCK
    assert cut == round((1 - share) * count)
    if 0 < share < 1:
        starts = batch.start.view(len(rows), count, BLOCK)[..., 0].float()
        before = starts[:, :cut].mean(1) < starts[:, cut:].mean(1)
        assert 0 < int(before.sum()) < len(rows)


def test_at_least_one_canvas_trains_the_bound(
    samples: Samples, tokenizer: TalariaTokenizer
) -> None:
    """Even if there is only one; unless the share is 1."""
    for share, left in ((0.9, BLOCK), (1.0, 0)):
        rng = np.random.default_rng(0)
        batch = make_batch([samples[0]], tokenizer, LENGTH, BLOCK, BLOCK, rng, suffix_share=share)
        assert batch.weight.shape[1] == left


def test_masking_levels_are_stratified() -> None:
    """There is one level in each equal part of (0, 1]."""
    levels = stratified(4, 6, np.random.default_rng(0))
    assert levels.shape == (4, 6)
    assert sorted(np.ceil(levels.flatten() * 24).astype(int)) == list(range(1, 25))
    assert stratified(3, 0, np.random.default_rng(0)).shape == (3, 0)


def test_some_canvases_show_their_end(samples: Samples, tokenizer: TalariaTokenizer) -> None:
    """The rest is masked from some token on; no canvas is fully visible."""
    rows = [samples[i] for i in range(12)]
    ends = []
    for share in (0.0, 1.0):
        rng = np.random.default_rng(0)
        batch = make_batch(
            rows, tokenizer, LENGTH, BLOCK, CANVAS_TOKENS, rng, suffix_share=1.0, end_share=share
        )
        given = (batch.canvas == tokenizer.eom).view(len(rows), -1, BLOCK)
        masked = (batch.target != IGNORED).view(len(rows), -1, BLOCK)
        assert (masked.any(-1) | (batch.block.view(*given.shape)[..., 0] < 0)).all()
        assert not (given.any(-1) & ~masked.any(-1)).any()
        ends.append(int(given.any(-1).sum()))
    assert ends[0] == 0
    assert ends[1] > 5


def test_canvases_have_equal_weight_in_the_chain_loss(
    samples: Samples, tokenizer: TalariaTokenizer
) -> None:
    """The weights of a chain-only canvas add up to its number of tokens."""
    rows = [samples[i] for i in range(6)]
    rng = np.random.default_rng(0)
    batch = make_batch(rows, tokenizer, LENGTH, BLOCK, CANVAS_TOKENS, rng, suffix_share=1.0)
    assert batch.weight.shape[1] == 0
    weights = (batch.chain_weight * (batch.target != IGNORED)).view(len(rows), -1, BLOCK).sum(-1)
    tokens = (batch.chain_weight > 0).view(len(rows), -1, BLOCK).sum(-1)
    torch.testing.assert_close(weights, tokens / tokens.sum())


def test_large_batches_are_computed_in_chunks(
    transformer: Transformer,
    samples: Samples,
    tokenizer: TalariaTokenizer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Losses and gradients do not depend on the chunk size."""
    batch = make_batch(
        [samples[i] for i in range(5)],
        tokenizer,
        LENGTH,
        BLOCK,
        CANVAS_TOKENS,
        np.random.default_rng(0),
    )
    trainable = copy.deepcopy(transformer).requires_grad_()
    gradients = []
    for chunk in (10_000, 100):
        monkeypatch.setattr("talaria.finetune.objective.CHUNK", chunk)
        trainable.zero_grad()
        losses = Objective(trainable, tokenizer.mask)(batch)
        losses.sum().backward()
        gradients.append(torch.cat([p.grad.flatten() for p in trainable.parameters()]))  # type: ignore[union-attr]
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-3, atol=1e-5)


def test_parts_of_a_batch_add_up_to_it(
    transformer: Transformer, samples: Samples, tokenizer: TalariaTokenizer
) -> None:
    """Losses of slices add up to those of the batch."""
    batch = make_batch(
        [samples[i] for i in range(6)],
        tokenizer,
        LENGTH,
        BLOCK,
        CANVAS_TOKENS,
        np.random.default_rng(0),
        middle_weight=4.0,
    )
    objective = Objective(transformer, tokenizer.mask)
    parts = objective(batch.rows(0, 1)) + objective(batch.rows(1, 6))
    torch.testing.assert_close(parts, objective(batch), rtol=1e-4, atol=1e-5)


def test_sparse_and_dense_masks_give_the_same_losses(
    transformer: Transformer, samples: Samples, tokenizer: TalariaTokenizer
) -> None:
    """FlexAttention gives the same losses to float32 accuracy."""
    batch = make_batch(
        [samples[i] for i in range(4)],
        tokenizer,
        LENGTH,
        BLOCK,
        CANVAS_TOKENS,
        np.random.default_rng(0),
    )
    objective = Objective(transformer, tokenizer.mask)
    with warnings.catch_warnings(action="ignore"):  # a warning that it is slow uncompiled
        sparse = objective(batch, block_mask(LENGTH, batch.block, batch.start))
    torch.testing.assert_close(sparse, objective(batch), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "compiled",
    [
        False,
        pytest.param(
            True,
            marks=pytest.mark.skipif(
                " " in torch.__file__, reason="torch's compiler fails if its path contains a space"
            ),
        ),
    ],
)
def test_sparse_masks_are_checked_before_they_are_used(
    transformer: Transformer,
    samples: Samples,
    tokenizer: TalariaTokenizer,
    monkeypatch: pytest.MonkeyPatch,
    compiled: bool,
) -> None:
    """A correct kernel passes, compiled or not; one that attends one position too far fails."""
    batch = make_batch(
        [samples[i] for i in range(4)],
        tokenizer,
        LENGTH,
        BLOCK,
        CANVAS_TOKENS,
        np.random.default_rng(0),
    )
    place = (transformer, LENGTH, batch.block, batch.start, compiled)
    with warnings.catch_warnings(action="ignore"):
        assert masks_agree(*place)
        monkeypatch.setattr(
            "talaria.finetune.joint.block_mask",
            lambda length, block, start: block_mask(length, block, start + 1),
        )
        assert not masks_agree(*place)
