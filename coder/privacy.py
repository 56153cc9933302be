"""What a model must never see: ignored, excluded and secret-looking files and lines.

When in doubt, leave it out: a missing definition costs one suggestion, but a key sent to a remote
service cannot be taken back.
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
"""The largest file that is read, in bytes; few hand-written modules are larger."""

_LONGEST_LINE = 2_000  # characters; a longer line is data, which may contain anything
_CACHED = 4_096  # verdicts, and folders with rules
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
    # Python modules may be called id_something too; keys have no such extension.
    r"id_(?!.*\.pyi?$).*|" + "|".join(fnmatch.translate(name) for name in _NAMES)
)
# Words that only contain "secret", as in secretary, secretion and secretive.
_INNOCENT = re.compile(r"secret(?:ar|ion|iv|ly)\w*")
# Modules are about secrets far more often than they hold any, so fewer names count: those whose
# last word, apart from an environment's, is one of these.
_MODULE = re.compile(r".+\.(?:pyi?|pyw|pyx|pxd)")
_HOLDER = re.compile(
    r"(?:.*[_.-])?(?:secrets?|passwords|credentials)"
    r"(?:[_.-](?:local|dev|development|test|testing|stag(?:e|ing)|prod|production))?\.\w+"
)
_DEFINITION = re.compile(r"(?m)^[ \t]*(?:async[ \t]+def|def|class)[ \t]+\w")
# Of folders: anywhere, and inside a workspace.
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
# Separate patterns: combined into one, each would slow down the others.
_SECRETS = tuple(
    re.compile(pattern)
    for pattern in (
        # A key block, to its end or the end of the text.
        r"-----BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY(?s:.*?)(?:-----END[^\n]*|\Z)",
        r"PuTTY-User-Key-File-\d(?s:.*?)(?:Private-MAC:[^\n]*|\Z)",
        rf"[^\n]{{{_LONGEST_LINE},}}",
        # A telling name and a literal that is not short, possibly on the next line.
        rf"{_WORDS}[\"']?\]?[ \t]{{0,20}}"
        r"(?:(?::[^=\n\"']{0,80})?=|:|,(?=[^\n]{0,200}\d))[ \t]{0,20}(?:\(\s{0,80}|\\\n\s{0,80})?"
        r"[rbufRBUF]{0,2}(?:\"{3}|'{3}|[\"'])[^\s\"',):\]}][^\n\"']{6,}",
        rf"#[^\n]{{0,200}}?{_WORDS}[ \t]{{0,4}}[=:][ \t]{{0,4}}[^\s\"']{{8,}}",
        # Tokens in the known formats of their issuers.
        r"\b(?:(?:AKIA|ASIA|AGPA|AIDA|AROA)[A-Z0-9]{16}"
        r"|(?:gh[opsur]|github_pat|npm|hf|shpat|shpss|dop_v1|dckr_pat)_\w{16,}"
        r"|(?:glpat-|gldt-|xox[a-z]-|xapp-|pypi-|ya29\.|GOCSPX-|SG\.|AIza)[\w-]{16,}"
        r"|[spr]k[-_](?=[\w-]{0,80}\d)[\w-]{16,}|eyJ[\w-]{10,500}\.eyJ[\w-]{10}"
        r"|hooks\.slack\.com/services/|[Bb](?:earer|asic)\s[\w.~+/-]{20,})",
        r"://[^\s:/@\"']{1,80}:[^\s/@\"']{3,200}@",
        # Other long literals that look random.
        r"[\"'](?=[\w+/=-]{32,500}[\"'])"
        r"(?=[\w+/=-]*[a-z])(?=[\w+/=-]*[A-Z])(?=(?:[\w+/=-]*?\d){3})[\w+/=-]+",
    )
)


def without_secrets(text: str) -> str:
    """The text with every secret-looking line emptied, so that line numbers stay."""
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


def secret_name(path: Path) -> str | None:
    """The part of a path that suggests that the file holds secrets; None if nothing does.

    A folder that may be a package says nothing about Python modules in it.
    """
    *folders, name = os.path.normcase(path).lower().replace("\\", "/").split("/")
    module = _MODULE.fullmatch(name) is not None
    for folder in folders:
        if folder in _FOLDERS and not (module and folder.isidentifier()):
            return folder
    if module and not name.startswith("."):
        return name if _HOLDER.fullmatch(name) else None
    return name if _NAME.fullmatch(_INNOCENT.sub("", name)) else None


def is_code(path: Path) -> bool:
    """Whether a module defines something and has no secret-looking line, whatever its name."""
    text = read(path) if _MODULE.fullmatch(path.name.lower()) else None
    return bool(text and _DEFINITION.search(text)) and without_secrets(text or "") == text


class Fence:
    """Decides which files of a workspace may be read; both ends of a link must be allowed.

    `exclude` has .gitignore patterns relative to each root. All .gitignore files from the top of
    the repository down count, and `.git/info/exclude`; each is read again after it changes. Not
    thread-safe.

    Raises:
        UsageError: `exclude` has an invalid pattern.
    """

    def __init__(self, roots: Sequence[Path], exclude: Sequence[str] = ()) -> None:
        found = [Path(os.path.abspath(root)) for root in roots]
        # Deepest first: a file is named relative to the nearest root.
        self.roots = sorted(dict.fromkeys(found), key=lambda root: -len(root.parts))
        self._places = [(root, _real(root)) for root in self.roots]
        try:
            self._exclude = _spec(exclude)
        except ValueError as error:
            raise UsageError(
                f"exclude has an invalid pattern ({error}): write patterns as in .gitignore"
            ) from None
        self._rules: dict[str, tuple[tuple[int, int], GitIgnoreSpec | None]] = {}
        self._verdicts: dict[str, tuple[tuple[object, ...], bool]] = {}

    def readable(self, path: Path) -> bool:
        """Whether a file may be read as context for others: inside the roots and not forbidden."""
        path, real = Path(os.path.abspath(path)), _real(path)
        return self._within(real, real=True) and all(
            not secret_name(place) and not self._forbidden(place) for place in {path, real}
        )

    def fillable(self, path: Path) -> bool:
        """Whether the model may see a file that the user opened, anywhere, even an ignored one.

        Excluded and secret files stay hidden.
        """
        return self.withheld(path) is None

    def withheld(self, path: Path) -> str | None:
        """Why the model may not see a file that the user opened; None if it may.

        A module whose own name suggests secrets is judged by its contents.
        """
        for place in (Path(os.path.abspath(path)), _real(path)):
            name = secret_name(place)
            if name and not (name == place.name.lower() and is_code(place)):
                return f"the name {name!r} suggests secrets"
            if why := self._excluded(place):
                return why
        return None

    def name(self, path: Path) -> str:
        """The path of a file relative to its root; outside of all roots, its name."""
        path = Path(os.path.abspath(path))
        for root, real in self._places:
            for top in (root, real):
                if path.is_relative_to(top):
                    return path.relative_to(top).as_posix()
        return path.name

    def contains(self, path: Path) -> bool:
        """Whether a path, taken literally, is inside the roots; a link may still lead outside."""
        return self._within(path, real=False)

    def _within(self, path: Path, real: bool) -> bool:
        return any(path.is_relative_to(place[real]) for place in self._places)

    def _excluded(self, path: Path) -> str | None:
        """Why a file is hidden by `exclude`, or by a folder of the workspace; None if it is not."""
        tops = [top for place in self._places for top in place if path.is_relative_to(top)]
        module = _MODULE.fullmatch(path.name.lower())
        # Patterns without a slash apply to files outside the roots too.
        for top in tops or [Path(path.anchor)]:
            relative = path.relative_to(top)
            if self._exclude.match_file(relative.as_posix()):
                return "the option exclude matches it"
            for part in relative.parts[:-1] if tops else ():
                secret = _FOLDER.fullmatch(_INNOCENT.sub("", part.lower()))
                if secret and not (module and part.isidentifier()):
                    return f"the name {part!r} suggests secrets"
        return None

    def _forbidden(self, path: Path) -> bool:
        """Whether `exclude` or a .gitignore forbids a path; cached until a .gitignore changes."""
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
            ignored = _ignored(path.relative_to(top).parts, rules)
            verdict = ignored or self._excluded(path) is not None
            if len(self._verdicts) >= _CACHED:
                self._verdicts.clear()
            self._verdicts[key] = known = (state, verdict)
        return known[1]

    def _read_rules(self, file: str, signature: tuple[int, int] | None) -> GitIgnoreSpec | None:
        if signature is None:
            return None
        known = self._rules.get(file)
        if known is None or known[0] != signature:
            text = read(Path(file)) or ""
            if len(self._rules) >= _CACHED:
                self._rules.clear()
            self._rules[file] = known = (signature, _lenient_spec(text.split("\n")[:_MAX_RULES]))
        return known[1]


def read(path: Path) -> str | None:
    r"""The text of a UTF-8 file of at most `MAX_BYTES`, with `\n` line endings; None for others.

    Pipes and devices are not opened, since reading them might never end.
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
    except (OSError, ValueError):  # gone, no permission, not UTF-8, or not a valid path
        return None
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _signature(file: str) -> tuple[int, int] | None:
    """A value that changes with a file; None if there is no file."""
    try:
        status = os.stat(file)
    except (OSError, ValueError):
        return None
    return (status.st_mtime_ns, status.st_size) if stat.S_ISREG(status.st_mode) else None


def _ignored(parts: tuple[str, ...], rules: list[GitIgnoreSpec | None]) -> bool:
    """Whether git ignores a path. Checked from the top down: an ignored folder hides everything.

    `rules` has the repository's own first, then those of each folder.
    """
    for depth, part in enumerate(parts):
        if part.lower() == ".git":
            return True
        mark = "/" if depth < len(parts) - 1 else ""
        # The deepest matching rule decides.
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
    # Name the backend: the default is the fastest one that happens to be installed.
    return GitIgnoreSpec.from_lines(lines, backend="simple")


def _lenient_spec(lines: Sequence[str]) -> GitIgnoreSpec | None:
    """The valid rules among some lines; git skips invalid ones too."""
    valid = []
    for line in lines:
        if not line.strip() or line.startswith("#"):
            continue
        try:
            _spec([line])
        except (ValueError, re.error):
            continue
        valid.append(line)
    return _spec(valid) if valid else None


def _repository(top: Path) -> Path:
    """The top folder of the repository around a folder, or the folder itself outside one."""
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
    """A path with links resolved; the path itself if the links form a cycle."""
    try:
        return Path(os.path.realpath(path))
    except (OSError, ValueError):
        return Path(os.path.abspath(path))
