"""What a model gives back of its training corpus word for word: longest runs of its completions.

`python -m benchmarks.memorisation --out FOLDER` draws ends of lines inside functions, half of
them in files that were trained on, half in held-out ones. In both modes the model goes on from
there for `--max-tokens` tokens, the likeliest always: nothing behind the cursor and no look at
the syntax keep it from reciting, as they do in an editor.

Runs of SHORTEST characters or more are found exactly. Code shares some with any other code: so
true continuations of held-out places are measured too. And models copy from their prompts,
which in training files stand in the corpus: what a prompt has is taken out in one measure.
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

from talaria.coder import checkpoint
from talaria.coder.errors import TalariaError, UsageError
from talaria.coder.infill import Options
from talaria.coder.syntax.functions import function_at
from talaria.coder.tokenizer import Tokenizer
from talaria.evals.generate import Sampling, generate
from talaria.evals.jsonl import ResultRow, environment, made_by, without_folders
from talaria.evals.progress import progress
from talaria.evals.suites import Problem, Suite
from talaria.evals.tables import cells, columns, ratio
from talaria.finetune.corpus import CorpusDocument, corpus_hash, read_manifest, read_nonempty

SHORTEST = 24  # characters of a run
COPIED = 12  # characters of what is copied from the prompt, at least
EDGES = (50, 100, 200)  # characters from which runs are counted
FIGURES = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "max": 1.0}
SHOWN = 10  # longest runs that are told in full
PROMPT = 1_400  # characters before the cursor; 384 tokens hold about as many
TRIES = 20  # places looked at for each that is wanted
BATCH = 16
FILES = 400  # that are searched at once, about 5 million characters
END_OF_FILE, END_OF_TEXT = "\ud800", "\ud801"  # halves of characters, which no text has
BASE = np.uint64(0x9E3779B97F4A7C15)  # of the rolling hash, modulo 2 ** 64
FIRST_BITS = np.uint64(64 - 24)  # a shift that leaves 24 bits of a hash, to put most text aside
SPLITS = {"training": "train", "held out": "valid"}
TRUE = "true text, held out"
MEASURES = {
    "run": "longest run, characters",
    "words": "the same, white space and repetitions uncounted",
    "memory": "the same, less what the prompt has too",
    "recalled": "characters of the true continuation, from the start",
}
Hashes = npt.NDArray[np.uint64]
Codes = npt.NDArray[np.uint32]


def main(argv: Sequence[str] | None = None) -> int:
    """Write `report.json` and `texts.json`, print tables; exit code 0, or as `talaria` has them."""
    words = list(sys.argv[1:] if argv is None else argv)
    parser = argparse.ArgumentParser(description="Longest verbatim runs against the corpus.")
    parser.add_argument("--model", help="a folder, or a name from `talaria models`")
    parser.add_argument("--corpus", type=Path, default=Path("data/corpus"), metavar="FOLDER")
    parser.add_argument("--completions", type=int, default=1000, metavar="N", help="of each mode")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="of the places")
    parser.add_argument("--max-tokens", type=int, default=128, metavar="N", help="of each, exactly")
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER")
    try:
        found = report(parser.parse_args(words), words)
    except TalariaError as error:
        print(f"memorisation: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("memorisation: interrupted; the same command goes on", file=sys.stderr)
        return 1
    print("\n".join(lines(found)))
    return 0


def report(args: argparse.Namespace, words: Sequence[str]) -> ResultRow:
    """All figures; completions that stand in the folder are not made again."""
    if args.completions < 2:
        raise UsageError(f"--completions is {args.completions}; it must be at least 2")
    tokens, corpus = args.max_tokens, corpus_hash(args.corpus)
    plain = Options(max_tokens=tokens, max_nfe=2 * tokens, check_syntax=False)
    modes = [replace(plain, mode="ar"), plain]
    model = checkpoint.load(args.model)
    documents = {kind: read_nonempty(args.corpus, split) for kind, split in SPLITS.items()}
    places, wanted = dict[str, list[Problem]](), args.completions // 2
    for kind, some in documents.items():
        places[kind] = draw(some, wanted, args.seed, model.tokenizer, tokens)
        if len(places[kind]) < wanted:
            raise UsageError(
                f"--completions is {args.completions}; {args.corpus} gives {len(places[kind])} "
                f"{kind} places, not {wanted}; ask for fewer, or fewer tokens"
            )
    suite = Suite("memorisation", [*chain(*places.values())], {"manifest.json": corpus})
    texts = [(TRUE, problem, problem.solution) for problem in places["held out"]]
    for options in modes:
        # With the true length given, a completion is as long as the true text beside it.
        request = Sampling(options, batch=BATCH, oracle_length=True)
        samples = generate(suite, model, request, args.out / f"completions-{options.mode}.jsonl")
        made = {row["id"]: row["text"] for row in samples.rows}
        for kind, asked in places.items():
            texts += [(f"{options.mode}, {kind}", problem, made[problem.id]) for problem in asked]
    runs = search([text for _, _, text in texts], documents["training"])
    rows = [measure(*text, own) for text, own in zip(texts, runs, strict=True)]
    groups = dict.fromkeys(row["group"] for row in rows)
    found = {
        "command": shlex.join(["python", "-m", "benchmarks.memorisation", *without_folders(words)]),
        "commit": made_by()["commit"],
        "environment": environment(),
        "model": {"name": model.name, "weights": model.weights_hash},
        "corpus": {"searched": corpus, "model's": model.config.get("training", {}).get("corpus")},
        "options": [asdict(options.settled(model.decoding)) for options in modes],
        "seed": args.seed,
        "groups": {group: summary([r for r in rows if r["group"] == group]) for group in groups},
        "longest": longest(rows, documents["training"], args.corpus),
    }
    # Other people's code stays out of the report, which may be published.
    texts = [run.pop("text") for run in found["longest"]]
    for name, what in (("report", found), ("texts", {"longest": texts, "rows": rows})):
        (args.out / f"{name}.json").write_text(json.dumps(what, indent=1) + "\n", encoding="utf-8")
    return found


def draw(
    documents: Sequence[CorpusDocument], number: int, seed: int, tokenizer: Tokenizer, tokens: int
) -> list[Problem]:
    """Ends of lines in bodies of functions, and the next tokens; fewer, if none is left."""
    rng = Random(seed)
    found: dict[str, Problem] = {}
    for document in rng.choices(documents, [len(d.text) for d in documents], k=TRIES * number):
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
    """The parts of each text that some document has, and no longer one around them."""
    whole = codes(texts, END_OF_TEXT)
    wanted = grams(whole)
    sieve = np.zeros(1 << (64 - int(FIRST_BITS)), bool)
    sieve[wanted >> FIRST_BITS] = True
    length = np.zeros(len(whole), np.int64)  # of the longest from each character on
    with progress(len(documents), "file") as bar:
        for first in range(0, len(documents), FILES):
            some = [document.text for document in documents[first : first + FILES]]
            part = codes(some, END_OF_FILE)
            reach, place = grow(part, whole, wanted, sieve)
            for at in np.flatnonzero(reach > length).tolist():
                size, start = int(reach[at]), int(place[at])
                # What merely has the same hash is none.
                if np.array_equal(part[start : start + size], whole[at : at + size]):
                    length[at] = size
            bar.update(len(some))
    # What goes on from the character before is a part of that one's.
    heads = (length > 0) & (np.append(0, length[:-1]) <= length)
    found, begin = list[list[str]](), 0
    for text in texts:
        own = np.flatnonzero(heads[begin : begin + len(text)])
        found.append([text[at : at + length[begin + at]] for at in own])
        begin += len(text) + 1
    return found


def codes(texts: Sequence[str], end: str) -> Codes:
    """The characters of texts as numbers, an `end` behind each text."""
    return np.frombuffer("".join(t + end for t in texts).encode("utf-32-le", "surrogatepass"), "u4")


def grams(characters: Codes) -> Hashes:
    """A polynomial hash of the SHORTEST characters from each on."""
    found = np.zeros(max(0, len(characters) - SHORTEST + 1), np.uint64)
    for shift in range(SHORTEST):
        found *= BASE
        found += characters[shift : shift + len(found)]
    return found


def grow(
    part: Codes, whole: Codes, wanted: Hashes, sieve: npt.NDArray[np.bool_]
) -> npt.NDArray[np.int64]:
    """How much of `whole` from each character on stands in `part`, and where; by hashes alone."""
    found = np.zeros((2, len(whole)), np.int64)
    hashes = grams(part)
    here = np.flatnonzero(sieve[hashes >> FIRST_BITS])
    hashes, there, size = hashes[here], np.arange(len(wanted)), SHORTEST
    while len(here):  # all that both have grows by a character at a time
        order = np.argsort(hashes)
        hashes, here = hashes[order], here[order]
        at = np.searchsorted(hashes, wanted).clip(max=len(here) - 1)
        both = hashes[at] == wanted
        there, wanted = there[both], wanted[both]
        found[:, there] = np.broadcast_arrays(size, here[at[both]])
        kept = np.isin(hashes, wanted) & (here + size < len(part))
        # No end of a text is in both: what both have goes on, but for what seems equal by its hash.
        here = here[kept]
        hashes = hashes[kept] * BASE + part[here + size]
        wanted = wanted * BASE + whole.take(there + size, mode="clip")
        size += 1
    return found


def weight(text: str) -> int:
    """Characters of a text's words and signs, each counted once, and so are those in a row."""
    return sum(map(len, set(re.findall(r"\w+|[^\w\s]", re.sub(r"(.)\1{3,}", r"\1", text)))))


def beyond(run: str, prompt: str) -> str:
    """What is left of a run when parts of COPIED characters or more that a prompt has are gone."""
    kept, at = "", 0
    while at < len(run):
        size = COPIED
        while at + size <= len(run) and run[at : at + size] in prompt:
            size += 1
        kept += run[at] if size == COPIED else " "
        at += 1 if size == COPIED else size - 1
    return kept


def measure(group: str, problem: Problem, text: str, runs: Sequence[str]) -> ResultRow:
    """The figures of a text, as MEASURES has them; 0 where there is no run."""
    new = {run: weight(beyond(run, problem.prefix)) for run in runs}
    most = max(new, key=new.__getitem__, default="")
    return {
        "group": group,
        "place": problem.id,
        "cluster": problem.cluster,
        "run": max(map(len, runs), default=0),
        "words": max(map(weight, runs), default=0),
        "memory": new.get(most, 0),
        "recalled": sum(takewhile(bool, map(eq, text, problem.solution))),
        "text": most,
    }


def summary(rows: Sequence[ResultRow]) -> ResultRow:
    """Quantiles and shares of each measure; intervals by files drawn anew."""
    found: ResultRow = {"texts": len(rows)}
    files = [row["cluster"] for row in rows]
    for name in MEASURES:
        values = [row[name] for row in rows]
        quantiles = np.quantile(values, [*FIGURES.values()], method="inverted_cdf").tolist()
        found[name] = dict(zip(FIGURES, quantiles, strict=True))
        found[name] |= {f"≥ {edge}": ratio([v >= edge for v in values], files) for edge in EDGES}
    return found


def longest(
    rows: Sequence[ResultRow], documents: Sequence[CorpusDocument], corpus: Path
) -> list[ResultRow]:
    """The model's longest runs by `memory`, and the files they stand in: many have common code."""
    licences = {p["name"]: p["licence"] for p in read_manifest(corpus).get("packages", ())}
    written = [row for row in rows if row["group"] != TRUE and row["text"]]
    best: dict[str, ResultRow] = {}
    for row in sorted(written, key=lambda row: -row["memory"]):
        best.setdefault(row["text"], row)
    found = []
    for text, row in list(best.items())[:SHOWN]:
        files = [f"{d.package}:{d.path}" for d in documents if text in d.text]
        packages = list(dict.fromkeys(file.partition(":")[0] for file in files))
        place = {"stands_in": files[0], "licence": licences.get(packages[0])}
        place |= {"files": len(files), "packages": len(packages)}
        found.append({**row, **place, "prompted": row["cluster"] in files})
    return found


def lines(found: ResultRow) -> list[str]:
    """The figures as a person reads them."""
    other = len(set(found["corpus"].values())) > 1
    printed = ["This is not the corpus that the model says it was trained on."] * other
    for name, title in MEASURES.items():
        table = [["", *FIGURES, *(head for edge in EDGES for head in (f"≥ {edge}", "95 %"))]]
        for group, of in found["groups"].items():
            figures = [cells(v) if isinstance(v, dict) else [str(v)] for v in of[name].values()]
            table.append([f"{group} ({of['texts']})", *(cell for some in figures for cell in some)])
        printed += [f"\n{title}", columns(table)]
    printed += [f"Of runs of {SHORTEST} characters or more.\n", "Most in the third table:"]
    for run in found["longest"]:
        where = f"{run['stands_in']} ({run['licence'] or 'licence unknown'})"
        counts = f"files: {run['files']}, packages: {run['packages']}"
        printed.append(f"{run['memory']} by {run['group']}: {where}; {counts}")
    return printed


if __name__ == "__main__":
    sys.exit(main())
