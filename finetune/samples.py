"""Training samples: files with holes, and plain text, laid out as token ids.

Every sample is a pure function of the seed and its number, so that a resumed run continues with
the samples it would have seen. Spans are chosen by characters, not tokens, which at 411M
parameters improves random-span infilling by a factor of three (Bavarian et al., arXiv
2207.14255). Prefix, middle and suffix are tokenised separately. If a middle starts inside a token
of the prefix, it includes that token, as in decoding with token healing.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from tree_sitter import Node

from talaria.coder.families.talaria import TalariaTokenizer
from talaria.coder.syntax.functions import function_bodies
from talaria.coder.syntax.lexical import lines_of
from talaria.coder.syntax.tree import encode, parse
from talaria.finetune.corpus import CorpusDocument

# The share of each kind of middle; the remainder is plain text.
SPANS = {"line_end": 0.25, "lines": 0.2, "node": 0.1, "characters": 0.15, "body": 0.1}
# Visits of a window with a documented function in each pass over the corpus.
DOCUMENTED_VISITS = 2
DOCUMENTED = re.compile(
    r"""^[ \t]*(?:async )?def (?s:.){0,400}?\)[^\n()]*:\n\s+[rRuU]?(?:\"{3}|'{3})""", re.M
)
# Kinds of syntax nodes that a person would ask for as a whole.
NODES = frozenset(
    [
        "block",
        "expression_statement",
        "return_statement",
        "if_statement",
        "for_statement",
        "while_statement",
        "with_statement",
        "try_statement",
        "assert_statement",
        "raise_statement",
        "function_definition",
        "decorated_definition",
        "argument_list",
        "call",
    ]
)
LARGEST = 1000  # bytes of a node or body
SHORTEST = 64  # tokens of a piece; a shorter remainder of a row is filled with plain text
ATTEMPTS = 4  # places searched for a span of the drawn kind
OTHER_FILES_SHARE = 0.15  # share of pieces that reserve much of their length for other files
BYTES_PER_TOKEN = 3  # a low estimate, for cutting text before it is tokenised

Place = tuple[int, int]  # index of a document, and a character offset in it


@dataclass(frozen=True)
class Sample:
    """A row of training data, or a piece of one.

    ids      clean token ids, at most the context length
    regions  ranges [start, end) of plain text, where canvases may be placed
    middles  ranges [start, end) of middles, each including its `<eom>`
    """

    ids: list[int]
    regions: list[tuple[int, int]]
    middles: list[tuple[int, int]]

    def append(self, piece: Sample) -> None:
        """Append another piece."""
        at = len(self.ids)
        self.ids.extend(piece.ids)
        self.regions.extend((a + at, b + at) for a, b in piece.regions)
        self.middles.extend((a + at, b + at) for a, b in piece.middles)


def choose_span(text: str, kind: str, rng: np.random.Generator) -> tuple[int, int] | None:
    """Choose a span [start, end) of characters of this kind at random in `text`.

    "line_end" is the rest of a line; "lines" whole lines; "node" a statement, definition or call;
    "characters" any range; "body" a function body without its docstring. None if the text has
    no such span.
    """
    if kind == "characters":
        length = int(np.exp(rng.uniform(0, np.log(500))))
        start = int(rng.integers(0, max(1, len(text) - length)))
        return start, min(len(text), start + length)
    if kind == "node":
        data = encode(text)
        found = list(nodes(data))
        if not found:
            return None
        start, end = found[int(rng.integers(len(found)))]
        return len(data[:start].decode()), len(data[:end].decode())
    if kind == "body":
        found = bodies(text)
        if not found:
            return None
        start, end = found[int(rng.integers(len(found)))]
        if rng.random() < 0.5:  # with the indentation before it
            start = text.rfind("\n", 0, start) + 1
        return start, end
    edges = [0]
    for line in lines_of(text):
        edges.append(edges[-1] + len(line))
    lines = [i for i in range(len(edges) - 1) if text[edges[i] : edges[i + 1]].strip()]
    if not lines:
        return None
    first = int(rng.choice(lines))
    start, end = edges[first], edges[first + 1]
    indentation = len(text[start:end]) - len(text[start:end].lstrip())
    if kind == "line_end":
        end -= text[start:end].endswith("\n")
        return int(rng.integers(start + indentation, end + 1)), end
    # Whole lines, either with indentation and line break or from the first word on.
    last = min(len(edges) - 1, first + int(rng.geometric(0.5)))
    end = edges[last]
    if rng.random() < 0.5:
        return start, end
    return start + indentation, end - text[start:end].endswith("\n")


def nodes(data: bytes) -> Iterator[tuple[int, int]]:
    """Yield [start, end) in bytes of each statement, block, definition and call up to LARGEST."""
    for node in walk(data):
        if node.type in NODES and node.end_byte - node.start_byte <= LARGEST:
            yield node.start_byte, node.end_byte


def bodies(text: str) -> list[tuple[int, int]]:
    """List [start, end) in characters of the function bodies up to LARGEST.

    If some of the functions have docstrings, only theirs: without one, little says what the body
    should do.
    """
    found = [
        body
        for body in function_bodies(text)
        if len(encode(text[body.start : body.end])) <= LARGEST
    ]
    documented = any(body.documented for body in found)
    return [(body.start, body.end) for body in found if body.documented == documented]


def walk(data: bytes) -> Iterator[Node]:
    """Yield all nodes of the syntax tree, parents first."""
    cursor = parse(data).walk()
    while True:
        if cursor.node is not None:
            yield cursor.node
        if cursor.goto_first_child() or cursor.goto_next_sibling():
            continue
        while cursor.goto_parent():
            if cursor.goto_next_sibling():
                break
        else:
            return


class Samples:
    """A map-style data set of samples: `samples[i]` depends only on the arguments and `i`.

    Files are cut into windows, which each pass over the corpus visits in an order drawn from the
    seed and the number of the pass.

    A row consists of pieces of many lengths and ends in plain text. If middles always ended with
    the row, the model would infer their length from the position, which it cannot in use.
    """

    def __init__(
        self,
        documents: Sequence[CorpusDocument],
        tokenizer: TalariaTokenizer,
        context_length: int,
        max_middle: int,
        seed: int,
        *,
        spans: Mapping[str, float] = SPANS,
    ) -> None:
        """`spans` gives the share of each kind of middle."""
        self.documents = documents
        self.tokenizer = tokenizer
        self.length = context_length
        self.max_middle = max_middle
        self.seed = seed
        self.spans = spans
        stride = context_length * BYTES_PER_TOKEN
        self.windows: list[Place] = []
        for number, document in enumerate(documents):
            text = document.text
            for start in range(0, max(1, len(text) - stride // 4), stride):
                documented = DOCUMENTED.search(text, start, start + stride)
                self.windows += [(number, start)] * (DOCUMENTED_VISITS if documented else 1)
        self.siblings: dict[str, list[int]] = defaultdict(list)
        for number, document in enumerate(documents):
            self.siblings[document.package].append(number)
        self._order: tuple[int, np.ndarray] | None = None

    def __getitem__(self, index: int) -> Sample:
        rng = np.random.default_rng((self.seed, 1, index))
        window = self.windows[self.window_of(index)]
        row = Sample([], [], [])
        while (room := self.length - len(row.ids)) > SHORTEST:
            rng.random()  # not used; keeps the held-out rows that recorded figures were taken on
            row.append(self.piece(window, room, rng))
            window = self.window(rng)
        if room:
            row.append(self.plain(*window, room, rng))
        return row

    def window(self, rng: np.random.Generator) -> Place:
        """Draw a window of the corpus."""
        return self.windows[int(rng.integers(len(self.windows)))]

    def piece(self, place: Place, room: int, rng: np.random.Generator) -> Sample:
        """Make a file with a hole, or plain text, of at most `room` tokens.

        If the place has no hole of the drawn kind, others are drawn, so that kinds keep their
        shares even if they are rare in the corpus.
        """
        drawn = rng.random()
        for kind, share in self.spans.items():
            drawn -= share
            if drawn < 0:
                for _ in range(ATTEMPTS):
                    found = self.infilling(*place, kind, room, rng)
                    if found:
                        return found
                    place = self.window(rng)
                break
        number, start = place
        text = self.documents[number].text
        # A random start: otherwise the ends of windows would be seen far less often.
        reach = min(len(text), start + self.length * BYTES_PER_TOKEN)
        start = text.rfind("\n", 0, int(rng.integers(start, max(start + 1, reach)))) + 1
        return self.plain(number, start, int(rng.integers(min(room, SHORTEST), room + 1)), rng)

    def window_of(self, index: int) -> int:
        """The index of the window from which sample `index` is made."""
        epoch, place = divmod(index, len(self.windows))
        if self._order is None or self._order[0] != epoch:
            order = np.random.default_rng((self.seed, 0, epoch)).permutation(len(self.windows))
            self._order = (epoch, order)
        return int(self._order[1][place])

    def plain(self, number: int, start: int, length: int, rng: np.random.Generator) -> Sample:
        """Make plain text of up to `length` tokens, preceded by other files if there is room."""
        tokenizer, document = self.tokenizer, self.documents[number]
        reach = start + length * BYTES_PER_TOKEN * 3
        body = tokenizer.encode(document.text[start:reach])[: length - 1]
        head, regions = self.other_files(number, length - 1 - len(body), rng)
        ids = [*head, tokenizer.pre, *body]
        return Sample(ids, [*regions, (len(head) + 1, len(ids))], [])

    def infilling(
        self, number: int, start: int, kind: str, room: int, rng: np.random.Generator
    ) -> Sample | None:
        """Make a hole of this kind in the window, with its context.

        Its length is random, at most `room` tokens, and at least half of it is context. None if
        the window has no such span, or the span is too long.
        """
        tokenizer, text = self.tokenizer, self.documents[number].text
        window = text[start : start + self.length * BYTES_PER_TOKEN]
        span = choose_span(window, kind, rng)
        if span is None:
            return None
        begin, end = start + span[0], start + span[1]
        begin -= len(tokenizer.last_token(text[:begin]))
        middle = tokenizer.encode(text[begin:end])
        if len(middle) >= min(self.max_middle, room // 2):
            return None
        middle.append(tokenizer.eom)
        length = int(rng.integers(max(min(room, SHORTEST), 2 * len(middle)), room + 1))
        length -= 3 + len(middle)
        room = length
        if rng.random() < OTHER_FILES_SHARE:
            room -= int(length * rng.uniform(0.2, 0.6))

        # The suffix is empty (as at the end of a file), short, or up to 40 % of the room.
        draw = rng.random()
        share = 0 if draw < 0.2 else rng.uniform(0, 0.1) if draw < 0.4 else rng.uniform(0.1, 0.4)
        keep = int(room * share)
        suffix = tokenizer.encode(text[end : end + keep * 12])[:keep]
        keep = room - len(suffix)
        if rng.random() < 0.1:
            keep = int(keep * rng.random())
        prefix = tokenizer.encode(text[max(0, begin - keep * 12) : begin])
        prefix = prefix[max(0, len(prefix) - keep) :]
        head, regions = self.other_files(number, length - len(suffix) - len(prefix), rng)
        context = tokenizer.layout.arrange(prefix, suffix, head)
        at_suffix = len(head) + 1
        at_prefix = at_suffix + len(suffix) + 1
        regions += [(at_suffix, at_suffix + len(suffix)), (at_prefix, at_prefix + len(prefix))]
        return Sample(context + middle, regions, [(len(context), len(context) + len(middle))])

    def other_files(
        self, number: int, room: int, rng: np.random.Generator
    ) -> tuple[list[int], list[tuple[int, int]]]:
        """Pieces of other files of the same package, at most `room` tokens, and their ranges."""
        ids: list[int] = []
        regions: list[tuple[int, int]] = []
        siblings = self.siblings[self.documents[number].package]
        for _ in range(4):
            sibling = siblings[int(rng.integers(len(siblings)))]
            other = self.documents[sibling]
            header = self.tokenizer.layout.file_header(other.path)
            space = room - len(ids) - len(header)
            if space < 48:
                break
            if sibling == number:
                continue
            at = int(rng.integers(0, max(1, len(other.text) - space * BYTES_PER_TOKEN)))
            at = other.text.rfind("\n", 0, at) + 1
            piece = self.tokenizer.encode(other.text[at : at + space * 12])[:space]
            ids += header
            regions.append((len(ids), len(ids) + len(piece)))
            ids += piece
        return ids, regions
