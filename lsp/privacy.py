"""What is never read nor shown to a model: ignored, excluded and secret-looking files and lines.

Where it is not certain, it is left out: a definition less costs a guess, a key shown
to a remote service cannot be taken back.
"""

from __future__ import annotations

import fnmatch
import os
import re
import stat
from collections.abc import Iterable, Sequence
from pathlib import Path

from pathspec import GitIgnoreSpec

from talaria.coder.errors import UsageError

MAX_BYTES = 256_000
"""The largest file that is read, in bytes; few modules that people write are larger."""

_LONGEST_LINE = 2_000  # characters; a longer line is data, which may hold anything
_REMEMBERED = 4_096  # verdicts and folders
_MAX_RULES = 2_000  # lines of a .gitignore

# Of files, in lower case.
_NAMES = (
    *(".env*", "*.env", ".netrc*", "_netrc", ".npmrc", ".pypirc", ".yarnrc*", ".pgpass"),
    *(".my.cnf", ".htpasswd", ".git-credentials", ".dockercfg", ".s3cfg", ".boto", ".*history"),
    *(".vault-token", "kubeconfig*", "credentials*", "*secret*", "*passwords*", "*.token"),
    *("*.pem", "*.key", "*.ppk", "*.p12", "*.pfx", "*.jks", "*.bks", "*.keystore", "*.kdb"),
    *("*.kdbx", "*.keychain*", "*.gpg", "*.asc", "*.der", "*.ovpn", "*.tfstate*", "*.tfvars*"),
    *("service[-_]account*.json", "client_id*.json"),
)
_NAME = re.compile(
    # Programs speak of ids too: a key has no ending of Python's.
    r"id_(?!.*\.pyi?$).*|" + "|".join(fnmatch.translate(name) for name in _NAMES)
)
# Of folders, wherever they are, and within a workspace.
_FOLDERS = frozenset(
    {".ssh", ".aws", ".azure", ".gcloud", "gcloud", ".gnupg", ".kube", ".docker"}
    | {".password-store", ".vault", ".secrets", "secrets", "keyrings", "keychains"}
)
_FOLDER = re.compile(r"\.env.*|.*secret.*|\.git")

_WORDS = (
    r"(?:[Pp][Aa][Ss][Ss](?i:w(?:or)?d|phrase)|[Pp][Ww][Dd]|[Ss][Ee][Cc][Rr][Ee][Tt](?i:[_-]?key)?"
    r"|[Tt][Oo][Kk][Ee][Nn]|[Cc][Rr][Ee][Dd][Ee](?i:ntial)"
    r"|[AaPpSsEeCc](?i:(?<=a)(?:pi|ccess|uth|ccount)|(?<=p)rivate|(?<=s)igning|(?<=e)ncryption"
    r"|(?<=c)onnection)[_-]?(?:[Kk][Ee][Yy]|[Ss][Tt][Rr][Ii][Nn][Gg]))"
    r"[sS]?(?:_\w{0,40}|\d*)(?!\w)"
)
# Apart, for together each would slow down the others.
_SECRETS = tuple(
    re.compile(pattern)
    for pattern in (
        # A block, to its end or that of the text.
        r"-----BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY(?s:.*?)(?:-----END[^\n]*|\Z)",
        r"PuTTY-User-Key-File-\d(?s:.*?)(?:Private-MAC:[^\n]*|\Z)",
        rf"[^\n]{{{_LONGEST_LINE},}}",
        # A name that says it, and a literal that is not short; perhaps on the next line.
        rf"{_WORDS}[\"']?\]?[ \t]{{0,20}}"
        r"(?:(?::[^=\n\"']{0,80})?=|:|,(?=[^\n]{0,200}\d))[ \t]{0,20}(?:\(\s{0,80}|\\\n\s{0,80})?"
        r"[rbufRBUF]{0,2}(?:\"{3}|'{3}|[\"'])[^\s\"',):\]}][^\n\"']{6,}",
        rf"#[^\n]{{0,200}}?{_WORDS}[ \t]{{0,4}}[=:][ \t]{{0,4}}[^\s\"']{{8,}}",
        # Tokens whose makers gave them a form.
        r"\b(?:(?:AKIA|ASIA|AGPA|AIDA|AROA)[A-Z0-9]{16}"
        r"|(?:gh[opsur]|github_pat|npm|hf|shpat|shpss|dop_v1|dckr_pat)_\w{16,}"
        r"|(?:glpat-|gldt-|xox[a-z]-|xapp-|pypi-|ya29\.|GOCSPX-|SG\.|AIza)[\w-]{16,}"
        r"|[spr]k[-_](?=[\w-]{0,80}\d)[\w-]{16,}|eyJ[\w-]{10,500}\.eyJ[\w-]{10}"
        r"|hooks\.slack\.com/services/|[Bb](?:earer|asic)\s[\w.~+/-]{20,})",
        r"://[^\s:/@\"']{1,80}:[^\s/@\"']{3,200}@",
        # What else is long and looks drawn by lot.
        r"[\"'](?=[\w+/=-]{32,500}[\"'])"
        r"(?=[\w+/=-]*[a-z])(?=[\w+/=-]*[A-Z])(?=(?:[\w+/=-]*?\d){3})[\w+/=-]+",
    )
)


def without_secrets(text: str) -> str:
    """The text with every line that looks like a secret left empty, so that lines keep numbers."""
    for pattern in _SECRETS:
        text = _without(pattern, text)
    return text


def _without(pattern: re.Pattern[str], text: str) -> str:
    parts: list[str] = []
    done = 0
    for found in pattern.finditer(text):
        start = max(done, text.rfind("\n", 0, found.start()) + 1)
        end = text.find("\n", max(done, found.end()))
        end = len(text) if end < 0 else end
        parts += text[done:start], "\n" * text.count("\n", start, end)
        done = end
    return "".join((*parts, text[done:])) if parts else text


def secret_looking(path: Path) -> bool:
    """Whether a file's name, or that of a folder above it, says that it holds secrets."""
    *folders, name = os.path.normcase(path).lower().replace("\\", "/").split("/")
    return _NAME.fullmatch(name) is not None or not _FOLDERS.isdisjoint(folders)


class Fence:
    """Which files of a workspace may be read; of a link, it asks about both of its ends.

    `exclude` has patterns as in .gitignore, told from each root. Every .gitignore counts
    from the top of the repository on, and `.git/info/exclude`; each is read again once
    it has changed. Not for several threads.

    Raises:
        UsageError: a pattern of `exclude` is none.
    """

    def __init__(self, roots: Sequence[Path], exclude: Sequence[str] = ()) -> None:
        found = [Path(os.path.abspath(root)) for root in roots]
        # The deepest first: a file is called by the nearest of its roots.
        self.roots = sorted(dict.fromkeys(found), key=lambda root: -len(root.parts))
        self._places = [(root, _real(root)) for root in self.roots]
        try:
            self._exclude = _spec(exclude)
        except ValueError as error:
            raise UsageError(
                f"exclude has a pattern that is none ({error}): write them as in .gitignore"
            ) from None
        self._rules: dict[str, tuple[tuple[int, int], GitIgnoreSpec | None]] = {}
        self._verdicts: dict[str, tuple[tuple[object, ...], bool]] = {}

    def readable(self, path: Path) -> bool:
        """Whether a file may be read for the sake of others: it is within, and none forbids it."""
        path, real = Path(os.path.abspath(path)), _real(path)
        return self._within(real, real=True) and all(
            not secret_looking(place) and not self._forbidden(place) for place in {path, real}
        )

    def fillable(self, path: Path) -> bool:
        """Whether a file that a person opened may be shown to the model: if ignored, all the same.

        It may lie anywhere. What looks like secrets or is excluded may not be shown.
        """
        return not any(
            secret_looking(place) or self._excluded(place)
            for place in {Path(os.path.abspath(path)), _real(path)}
        )

    def name(self, path: Path) -> str:
        """What a file is called: its path from its root on, or its last part if it has none."""
        path = Path(os.path.abspath(path))
        for root, real in self._places:
            for top in (root, real):
                if path.is_relative_to(top):
                    return path.relative_to(top).as_posix()
        return path.name

    def contains(self, path: Path) -> bool:
        """Whether a path is written as one within the roots; it may be a link that leads out."""
        return self._within(path, real=False)

    def _within(self, path: Path, real: bool) -> bool:
        return any(path.is_relative_to(place[real]) for place in self._places)

    def _excluded(self, path: Path) -> bool:
        tops = [top for place in self._places for top in place if path.is_relative_to(top)]
        # Of a file that lies elsewhere, patterns without a slash can still say something.
        for top in tops or [Path(path.anchor)]:
            relative = path.relative_to(top)
            if self._exclude.match_file(relative.as_posix()):
                return True
            if tops and any(_FOLDER.fullmatch(part.lower()) for part in relative.parts[:-1]):
                return True
        return False

    def _forbidden(self, path: Path) -> bool:
        """Whether `exclude` or a .gitignore forbids it; remembered while these stay."""
        top = next(
            (t for place in self._places for t in place if path.is_relative_to(t)), path.parent
        )
        top = _repository(top)
        folders = [top]
        for part in path.relative_to(top).parts[:-1]:
            folders.append(folders[-1] / part)
        files = [f"{top}/.git/info/exclude", *(f"{folder}/.gitignore" for folder in folders)]
        state = tuple(_signature(file) for file in files)
        key = str(path)
        known = self._verdicts.get(key)
        if known is None or known[0] != state:
            rules = [self._read_rules(*file) for file in zip(files, state, strict=True)]
            verdict = self._excluded(path) or _ignored(path.relative_to(top).parts, rules)
            if len(self._verdicts) >= _REMEMBERED:
                self._verdicts.clear()
            self._verdicts[key] = known = (state, verdict)
        return known[1]

    def _read_rules(self, file: str, signature: tuple[int, int] | None) -> GitIgnoreSpec | None:
        if signature is None:
            return None
        known = self._rules.get(file)
        if known is None or known[0] != signature:
            text = read(Path(file)) or ""
            if len(self._rules) >= _REMEMBERED:
                self._rules.clear()
            self._rules[file] = known = (signature, _lenient_spec(text.split("\n")[:_MAX_RULES]))
        return known[1]


def read(path: Path) -> str | None:
    r"""The text of a file of at most `MAX_BYTES` in UTF-8, lines ending in `\n`; None for others.

    Pipes and devices are not opened, for reading them might never end.
    """
    try:
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode) or status.st_size > MAX_BYTES:
            return None
        with open(path, "rb") as file:
            data = file.read(MAX_BYTES + 1)
        if len(data) > MAX_BYTES or b"\0" in data:
            return None
        text = data.decode("utf-8-sig")
    except (OSError, ValueError):  # gone, forbidden, not UTF-8, or no path at all
        return None
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _signature(file: str) -> tuple[int, int] | None:
    """What changes when a file does; None where there is no file."""
    try:
        status = os.stat(file)
    except (OSError, ValueError):
        return None
    return (status.st_mtime_ns, status.st_size) if stat.S_ISREG(status.st_mode) else None


def _ignored(parts: tuple[str, ...], rules: list[GitIgnoreSpec | None]) -> bool:
    """What git says of a path, asked from the top down: in an ignored folder, all is.

    The first of the rules are the repository's own, then come those of each folder.
    """
    for depth, part in enumerate(parts):
        if part.lower() == ".git":
            return True
        mark = "/" if depth < len(parts) - 1 else ""
        # The deepest rules that say something decide.
        for level in range(depth + 1, -1, -1):
            spec = rules[level]
            if spec is None:
                continue
            path = "/".join(parts[max(0, level - 1) : depth + 1]) + mark
            verdict = spec.check_file(path).include
            if verdict:
                return True
            if verdict is False:
                break
    return False


def _spec(lines: Iterable[str]) -> GitIgnoreSpec:
    # The backend is named, as the fastest one that is installed might be any.
    return GitIgnoreSpec.from_lines(lines, backend="simple")


def _lenient_spec(lines: Sequence[str]) -> GitIgnoreSpec | None:
    """Rules as far as they can be read: git passes over the others too."""
    sound = []
    for line in lines:
        if not line.strip() or line.startswith("#"):
            continue
        try:
            _spec([line])
        except (ValueError, re.error):
            continue
        sound.append(line)
    return _spec(sound) if sound else None


def _repository(top: Path) -> Path:
    """The folder in which a repository begins that a folder is in, or the folder itself."""
    for folder in (top, *top.parents):
        if _exists(folder / ".git"):
            return folder
    return top


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):
        return False


def _real(path: Path) -> Path:
    """Where a path leads in the end; where links go round in a circle, the path itself."""
    try:
        return Path(os.path.realpath(path))
    except (OSError, ValueError):
        return Path(os.path.abspath(path))
