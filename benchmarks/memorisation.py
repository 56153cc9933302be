"""Measure how much of its training corpus a model recites: verbatim runs in its completions.

`python -m benchmarks.memorisation --out FOLDER` draws line ends inside functions, half of them in
training files and half in held-out ones. In both modes the model continues each for
`--max-tokens` tokens, always with the likeliest token. There is no suffix and no syntax check,
which in an editor would keep it from reciting.

The search finds all runs of SHORTEST characters or more exactly. Any code shares some runs with
other code, so the true continuations of held-out places are measured as well. Models also copy
from their prompts, which for training files are part of the corpus; one measure leaves out what
the prompt has.
"""

from __future__ import annotations

import argparse
import json
import re
import shlex
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from itertools import chain, takewhile
from operator import eq
from pathlib import Path
from random import Random

import numpy as np
import numpy.typing as npt

from talaria.coder import checkpoint, files
from talaria.coder.arguments import Parser
from talaria.coder.cli import guarded
from talaria.coder.errors import TalariaError, UsageError
from talaria.coder.request import Options
from talaria.coder.syntax.functions import function_at
from talaria.coder.tokenizer import Tokenizer
from talaria.evals.generate import Sampling, generate
from talaria.evals.jsonl import ResultRow, environment, made_by, without_folders
from talaria.evals.progress import progress
from talaria.evals.suites import Problem, Suite
from talaria.evals.tables import cells, columns, ratio
from talaria.finetune.corpus import CorpusDocument, corpus_hash, read_manifest, read_nonempty

SHORTEST = 24  # characters of a run
COPIED = 12  # least characters of a part copied from the prompt
THRESHOLDS = (50, 100, 200)  # characters; the report gives the share of runs from each on
QUANTILES = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "max": 1.0}
SHOWN = 10  # longest runs that are listed
PROMPT = 1_400  # characters before the cursor, about 384 tokens
ATTEMPTS = 20  # places examined per place wanted
BATCH = 16
FILES = 400  # searched at a time, about 5 million characters
END_OF_FILE, END_OF_TEXT = "\ud800", "\ud801"  # lone surrogates, which no text contains
BASE = np.uint64(0x9E3779B97F4A7C15)  # of the rolling hash, modulo 2 ** 64
FIRST_BITS = np.uint64(64 - 24)  # shift that leaves the first 24 bits of a hash, for the sieve
SPLITS = {"training": "train", "held out": "valid"}
TRUE = "true text, held out"
MEASURES = {
    "run": "longest run, characters",
    "words": "the same, not counting white space and repetitions",
    "memory": "the same, without what the prompt has too",
    "recalled": "correct characters of the true continuation, from the start",
}
Hashes = npt.NDArray[np.uint64]
Codes = npt.NDArray[np.uint32]


def main(argv: Sequence[str] | None = None) -> int:
    """Write `report.json` and `texts.json` and print tables; exit codes as of `talaria`."""
    words = list(sys.argv[1:] if argv is None else argv)
    parser = Parser(
        description="Find the longest verbatim runs of the corpus in a model's completions."
    )
    parser.add_argument("--model", help="a folder, or a name from `talaria models`")
    parser.add_argument("--corpus", type=Path, default=Path("data/corpus"), metavar="FOLDER")
    parser.add_argument("--completions", type=int, default=1000, metavar="N", help="per mode")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="draws the places")
    parser.add_argument(
        "--max-tokens", type=int, default=128, metavar="N", help="exact length of a completion"
    )
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER")
    try:
        found = report(parser.parse_args(words), words)
    except TalariaError as error:
        print(f"memorisation: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("memorisation: interrupted; the same command continues", file=sys.stderr)
        return 1
    print("\n".join(lines(found)))
    return 0


def report(args: argparse.Namespace, words: Sequence[str]) -> ResultRow:
    """Return all figures; completions already in the folder are kept."""
    if args.completions < 2:
        raise UsageError(f"--completions is {args.completions}; it must be at least 2")
    tokens, corpus = args.max_tokens, corpus_hash(args.corpus)
    plain = Options(max_tokens=tokens, max_nfe=2 * tokens, check_syntax=False)
    modes = [replace(plain, mode="ar"), replace(plain, mode="diffuse")]
    model = checkpoint.load(args.model)
    documents = {kind: read_nonempty(args.corpus, split) for kind, split in SPLITS.items()}
    places, wanted = dict[str, list[Problem]](), args.completions // 2
    for kind, some in documents.items():
        places[kind] = draw(some, wanted, args.seed, model.tokenizer, tokens)
        if len(places[kind]) < wanted:
            raise UsageError(
                f"--completions is {args.completions}; {args.corpus} has {len(places[kind])} "
                f"{kind} places, not {wanted}; ask for fewer, or fewer tokens"
            )
    suite = Suite("memorisation", [*chain(*places.values())], {"manifest.json": corpus})
    texts = [(TRUE, problem, problem.solution) for problem in places["held out"]]
    for options in modes:
        # Given the true length, a completion is as long as the true text it is compared with.
        sampling = Sampling(options, batch=BATCH, oracle_length=True)
        samples = generate(suite, model, sampling, args.out / f"completions-{options.mode}.jsonl")
        made = {row["id"]: row["text"] for row in samples.rows}
        for kind, problems in places.items():
            texts += [(f"{options.mode}, {kind}", each, made[each.id]) for each in problems]
    runs = search([text for _, _, text in texts], documents["training"])
    rows = [measure(*text, own) for text, own in zip(texts, runs, strict=True)]
    groups = dict.fromkeys(row["group"] for row in rows)
    found = {
        "command": shlex.join(["python", "-m", "benchmarks.memorisation", *without_folders(words)]),
        "commit": made_by()["commit"],
        "environment": environment(),
        "model": {"name": model.name, "weights": model.weights_hash},
        "corpus": {"searched": corpus, "model's": model.config.get("training", {}).get("corpus")},
        "options": [asdict(options.settled(model.settings)) for options in modes],
        "seed": args.seed,
        "groups": {group: summary([r for r in rows if r["group"] == group]) for group in groups},
        "longest": longest(rows, documents["training"], args.corpus),
    }
    # Other people's code stays out of the report, which may be published.
    texts = [run.pop("text") for run in found["longest"]]
    for name, content in (("report", found), ("texts", {"longest": texts, "rows": rows})):
        files.write(args.out / f"{name}.json", json.dumps(content, indent=1) + "\n")
    return found


def draw(
    documents: Sequence[CorpusDocument], number: int, seed: int, tokenizer: Tokenizer, tokens: int
) -> list[Problem]:
    """Draw line ends in function bodies, with the next tokens as solution; maybe fewer."""
    rng = Random(seed)
    found: dict[str, Problem] = {}
    for document in rng.choices(documents, [len(d.text) for d in documents], k=ATTEMPTS * number):
        if len(found) == number:
            break
        text, file = document.text, f"{document.package}:{document.path}"
        end = text.find("\n", rng.randrange(len(text)))
        ids = tokenizer.encode(text[end : end + 16 * tokens])[:tokens]
        true = tokenizer.decode(ids).rstrip("\ufffd")
        body = function_at(text, end) if end >= PROMPT and len(ids) == tokens else None
        if body and body.start <= end < body.end and text.startswith(true, end):
            name = f"{file}:{text.count(chr(10), 0, end) + 1}"
            found[name] = Problem(name, file, text[end - PROMPT : end], "", true)
    return list(found.values())


def search(texts: Sequence[str], documents: Sequence[CorpusDocument]) -> list[list[str]]:
    """Find each text's maximal runs: parts that stand in some document and cannot be extended."""
    whole = code_points(texts, END_OF_TEXT)
    wanted = grams(whole)
    sieve = np.zeros(1 << (64 - int(FIRST_BITS)), bool)
    sieve[wanted >> FIRST_BITS] = True
    length = np.zeros(len(whole), np.int64)  # of the longest run that begins at each character
    with progress(len(documents), "file") as bar:
        for first in range(0, len(documents), FILES):
            some = [document.text for document in documents[first : first + FILES]]
            part = code_points(some, END_OF_FILE)
            reach, place = extend_matches(part, whole, wanted, sieve)
            for at in np.flatnonzero(reach > length).tolist():
                size, start = int(reach[at]), int(place[at])
                # Hashes can collide, so compare the characters.
                if np.array_equal(part[start : start + size], whole[at : at + size]):
                    length[at] = size
            bar.update(len(some))
    # A run that continues the one from the character before is part of it.
    heads = (length > 0) & (np.append(0, length[:-1]) <= length)
    found, begin = list[list[str]](), 0
    for text in texts:
        own = np.flatnonzero(heads[begin : begin + len(text)])
        found.append([text[at : at + length[begin + at]] for at in own])
        begin += len(text) + 1
    return found


def code_points(texts: Sequence[str], end: str) -> Codes:
    """Return the code points of texts, with `end` after each text."""
    return np.frombuffer("".join(t + end for t in texts).encode("utf-32-le", "surrogatepass"), "u4")


def grams(characters: Codes) -> Hashes:
    """Return a polynomial hash of the SHORTEST characters from each character on."""
    found = np.zeros(max(0, len(characters) - SHORTEST + 1), np.uint64)
    for shift in range(SHORTEST):
        found *= BASE
        found += characters[shift : shift + len(found)]
    return found


def extend_matches(
    part: Codes, whole: Codes, wanted: Hashes, sieve: npt.NDArray[np.bool_]
) -> npt.NDArray[np.int64]:
    """Find the longest match in `part` from each character of `whole` on, by hashes only.

    Returns [2, len(whole)]: lengths, and places in `part`.
    """
    found = np.zeros((2, len(whole)), np.int64)
    hashes = grams(part)
    here = np.flatnonzero(sieve[hashes >> FIRST_BITS])
    hashes, there, size = hashes[here], np.arange(len(wanted)), SHORTEST
    while len(here):  # extend all matches by one character at a time
        order = np.argsort(hashes)
        hashes, here = hashes[order], here[order]
        at = np.searchsorted(hashes, wanted).clip(max=len(here) - 1)
        both = hashes[at] == wanted
        there, wanted = there[both], wanted[both]
        found[:, there] = np.broadcast_arrays(size, here[at[both]])
        kept = np.isin(hashes, wanted) & (here + size < len(part))
        # Only one side contains each end mark, so no true match crosses the end of a text.
        here = here[kept]
        hashes = hashes[kept] * BASE + part[here + size]
        wanted = wanted * BASE + whole.take(there + size, mode="clip")
        size += 1
    return found


def weight(text: str) -> int:
    """Count the characters of a text's distinct words and signs; runs of one character shrink."""
    return sum(map(len, set(re.findall(r"\w+|[^\w\s]", re.sub(r"(.)\1{3,}", r"\1", text)))))


def beyond(run: str, prompt: str) -> str:
    """Remove from a run all parts of COPIED characters or more that the prompt has."""
    kept, at = "", 0
    while at < len(run):
        size = COPIED
        while at + size <= len(run) and run[at : at + size] in prompt:
            size += 1
        kept += run[at] if size == COPIED else " "
        at += 1 if size == COPIED else size - 1
    return kept


def measure(group: str, problem: Problem, text: str, runs: Sequence[str]) -> ResultRow:
    """Compute the MEASURES of a text; 0 where it has no run."""
    new = {run: weight(beyond(run, problem.prefix)) for run in runs}
    longest_new = max(new, key=new.__getitem__, default="")
    return {
        "group": group,
        "place": problem.id,
        "cluster": problem.cluster,
        "run": max(map(len, runs), default=0),
        "words": max(map(weight, runs), default=0),
        "memory": new.get(longest_new, 0),
        "recalled": sum(takewhile(bool, map(eq, text, problem.solution))),
        "text": longest_new,
    }


def summary(rows: Sequence[ResultRow]) -> ResultRow:
    """Compute quantiles of each measure, and shares with bootstrap intervals over files."""
    found: ResultRow = {"texts": len(rows)}
    clusters = [row["cluster"] for row in rows]
    for name in MEASURES:
        values = [row[name] for row in rows]
        quantiles = np.quantile(values, [*QUANTILES.values()], method="inverted_cdf").tolist()
        found[name] = dict(zip(QUANTILES, quantiles, strict=True))
        found[name] |= {f"≥ {n}": ratio([v >= n for v in values], clusters) for n in THRESHOLDS}
    return found


def longest(
    rows: Sequence[ResultRow], documents: Sequence[CorpusDocument], corpus: Path
) -> list[ResultRow]:
    """List the model's longest runs by `memory`, and the files that contain them."""
    licences = {p["name"]: p["licence"] for p in read_manifest(corpus).get("packages", ())}
    written = [row for row in rows if row["group"] != TRUE and row["text"]]
    best: dict[str, ResultRow] = {}
    for row in sorted(written, key=lambda row: -row["memory"]):
        best.setdefault(row["text"], row)
    found = []
    for text, row in list(best.items())[:SHOWN]:
        matching = [f"{d.package}:{d.path}" for d in documents if text in d.text]
        packages = list(dict.fromkeys(file.partition(":")[0] for file in matching))
        place = {"stands_in": matching[0], "licence": licences.get(packages[0])}
        place |= {"files": len(matching), "packages": len(packages)}
        found.append({**row, **place, "prompted": row["cluster"] in matching})
    return found


def lines(found: ResultRow) -> list[str]:
    """Format the figures for the terminal."""
    other = len(set(found["corpus"].values())) > 1
    printed = ["This is not the corpus that the model says it was trained on."] * other
    for name, title in MEASURES.items():
        table = [["", *QUANTILES, *(head for n in THRESHOLDS for head in (f"≥ {n}", "95 %"))]]
        for group, of in found["groups"].items():
            figures = [cells(v) if isinstance(v, dict) else [str(v)] for v in of[name].values()]
            table.append([f"{group} ({of['texts']})", *(cell for some in figures for cell in some)])
        printed += [f"\n{title}", columns(table)]
    printed += [
        f"Runs of {SHORTEST} characters or more.\n",
        "Longest by the third table, in characters:",
    ]
    for run in found["longest"]:
        where = f"{run['stands_in']} ({run['licence'] or 'licence unknown'})"
        counts = f"files: {run['files']}, packages: {run['packages']}"
        printed.append(f"{run['memory']} by {run['group']}: {where}; {counts}")
    return printed


if __name__ == "__main__":
    sys.exit(guarded("memorisation", main))
