"""The config: an ``.env`` file that says what to run.

Rules:

1. Parsed by python-dotenv's parser, never executed, never interpolated: ``$VAR``, ``${VAR}`` and ``$(…)``
   reach the stage's bash as they are written.
2. What is wrong is said with file and line, and with the key that was probably meant.
3. Secrets are the variables whose name ends in KEY, TOKEN, SECRET or PASSWORD, those that SECRET_NAMES
   lists, and every variable whose value contains one of theirs. Their values are never stored.
"""

from __future__ import annotations

import difflib
import io
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from dotenv.parser import Binding, parse_stream

from launcher.errors import UsageError
from launcher.tokens import OWN_NAMES, tokens_in
from ledger.canonical import canonical_json
from ledger.events import STAGES, StageName

__all__ = ["Config", "load", "parse"]

COMMAND_KEYS: Final[dict[str, StageName]] = {f"{s.upper()}_CMD": s for s in STAGES}
TIMEOUT_KEYS: Final[dict[str, StageName]] = {f"{s.upper()}_TIMEOUT": s for s in STAGES}
RETRY_KEYS: Final[dict[str, StageName]] = {f"{s.upper()}_RETRIES": s for s in STAGES}
_OTHER_KEYS: Final = (
    "RELABEL_TAG_FILE",
    "TEACHER_SCORECARD",
    "TEACHER_CHECKPOINT",
    "INFRASTRUCTURE_RETRIES",
    "STUDENT_CHECKPOINT_GLOB",
    "COLLECT_EXCLUDE",
    "INPUTS",
    "INPUTS_PRIVATE",
    "PROMOTION_GATE",
    "SECRET_NAMES",
)
KNOWN_KEYS: Final = (*COMMAND_KEYS, *TIMEOUT_KEYS, *RETRY_KEYS, *_OTHER_KEYS)

_SECRET_NAME = re.compile(r"(^|_)(KEY|TOKEN|SECRET|PASSWORD)$")
_MIN_SECRET_LENGTH: Final = 8
_LIKELY: Final = 0.88
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


@dataclass(frozen=True)
class Config:
    """A parsed config. ``variables`` in file order, secrets included; ``lines`` by key, from 1."""

    path: str
    variables: Mapping[str, str]
    lines: Mapping[str, int] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    declared_secrets: frozenset[str] = frozenset()

    @property
    def commands(self) -> dict[StageName, str | None]:
        """Each stage's command as written; None where it is absent or empty."""
        return {stage: self.variables.get(key) or None for key, stage in COMMAND_KEYS.items()}

    @property
    def timeouts(self) -> dict[StageName, float | None]:
        """Each stage's time limit in seconds, or None."""
        return {s: self._number(k) for k, s in TIMEOUT_KEYS.items()}

    @property
    def retries(self) -> dict[StageName, int]:
        """How often each stage's own failure is tried again."""
        return {s: self._count(k, 0) for k, s in RETRY_KEYS.items()}

    @property
    def infrastructure_retries(self) -> int:
        """How often a lost process, an image or a storage fault is tried again."""
        return self._count("INFRASTRUCTURE_RETRIES", 2)

    @property
    def student_glob(self) -> str | None:
        return self.variables.get("STUDENT_CHECKPOINT_GLOB") or None

    @property
    def collect_exclude(self) -> tuple[str, ...]:
        """gitignore patterns, one a line."""
        return tuple(self.variables.get("COLLECT_EXCLUDE", "").splitlines())

    @property
    def inputs(self) -> tuple[str, ...]:
        """Globs, separated by white space."""
        return tuple(self.variables.get("INPUTS", "").split())

    @property
    def inputs_private(self) -> tuple[str, ...]:
        """As ``inputs``; digested, never stored."""
        return tuple(self.variables.get("INPUTS_PRIVATE", "").split())

    @property
    def promotion_gate(self) -> str | None:
        return self.variables.get("PROMOTION_GATE") or None

    @property
    def relabel_tag_file(self) -> str | None:
        return self.variables.get("RELABEL_TAG_FILE") or None

    @property
    def teacher_scorecard(self) -> str | None:
        return self.variables.get("TEACHER_SCORECARD") or None

    @property
    def teacher_checkpoint(self) -> str | None:
        return self.variables.get("TEACHER_CHECKPOINT") or None

    @property
    def secret_names(self) -> frozenset[str]:
        """The variables whose values are never stored (rule 3)."""
        listed = re.split(r"[\s,]+", self.variables.get("SECRET_NAMES", ""))
        named = {n for n in self.variables if _SECRET_NAME.search(n) or n in listed}
        values = [v for n in named if len(v := self.variables[n]) >= _MIN_SECRET_LENGTH]
        tainted = {
            n
            for n, text in self.variables.items()
            if n not in COMMAND_KEYS and any(value in text for value in values)
        }
        return frozenset(named | tainted | self.declared_secrets)

    def with_overrides(self, overrides: Mapping[str, str]) -> Config:
        """This config with ``--set`` values over it, checked again. Raises UsageError."""
        for name, value in overrides.items():
            if not _NAME.fullmatch(name):
                raise UsageError(f"--set {name!r} is no variable name")
            if name in OWN_NAMES:
                raise UsageError(f"--set {name}: that name is ours to set")
            if "\x00" in value:
                raise UsageError(f"--set {name}: a NUL byte is not allowed")
        changed = replace(self, variables={**self.variables, **overrides})
        _check(changed)
        return changed

    def with_secrets(self, values: Mapping[str, str]) -> Config:
        """A stored config with its secret values put back."""
        return replace(self, variables={**self.variables, **values})

    def stored_bytes(self) -> bytes:
        """What is kept of it: RFC 8785 JSON {"secret_names": […], "variables": {name: value}}."""
        secret = self.secret_names
        public = {n: v for n, v in self.variables.items() if n not in secret}
        return canonical_json({"variables": public, "secret_names": sorted(secret)})

    @classmethod
    def from_stored(cls, data: bytes, path: str) -> Config:
        """The config that ``stored_bytes`` kept, without its secret values."""
        raw = json.loads(data)
        return cls(path, raw["variables"], declared_secrets=frozenset(raw["secret_names"]))

    def at(self, key: str) -> str:
        """``path:line`` of a key, for messages."""
        return f"{self.path}:{self.lines[key]}" if key in self.lines else f"--set {key}"

    def _number(self, key: str) -> float | None:
        text = self.variables.get(key, "").strip()
        return float(text) if text else None

    def _count(self, key: str, default: int) -> int:
        text = self.variables.get(key, "").strip()
        return int(text) if text else default


def load(path: Path) -> Config:
    """Read and parse a config. Raises UsageError, with the line where it has one."""
    try:
        data = path.read_bytes()
    except OSError as exc:
        raise UsageError(
            f"no config {path}: {exc.strerror}", "--config names an .env file"
        ) from exc
    return parse(_decoded(data, str(path)), str(path))


def _decoded(data: bytes, path: str) -> str:
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as exc:
        line = data.count(b"\n", 0, exc.start) + 1
        raise UsageError(f"{path}:{line}: byte {exc.start} is not UTF-8 text") from exc
    if "\x00" in text:
        line = text.count("\n", 0, text.index("\x00")) + 1
        raise UsageError(f"{path}:{line}: a NUL byte is not allowed")
    return text.replace("\r\n", "\n")


def parse(text: str, path: str) -> Config:
    """The config that ``text`` holds. Raises UsageError with ``path:line``."""
    variables: dict[str, str] = {}
    lines: dict[str, int] = {}
    for binding in parse_stream(io.StringIO(text)):
        line = binding.original.line + _leading_lines(binding)
        if binding.error:
            raise UsageError(f"{path}:{line}: cannot be parsed: {_shown(binding)}")
        if binding.key is None:
            continue
        key = binding.key
        if binding.value is None:
            raise UsageError(f"{path}:{line}: {key} has no '='")
        if key in variables:
            raise UsageError(f"{path}:{line}: {key} is set twice, first on line {lines[key]}")
        variables[key], lines[key] = binding.value, line
    config = Config(path, variables, lines)
    _check(config)
    return replace(config, warnings=tuple(_typos(config)))


def _leading_lines(binding: Binding) -> int:
    """dotenv counts from where the previous binding ended; blank lines before the key are not its own."""
    original = binding.original.string
    return original[: len(original) - len(original.lstrip())].count("\n")


def _shown(binding: Binding) -> str:
    # Only the part before '=': what follows may be a secret's value.
    first = (binding.original.string.strip().splitlines() or [""])[0]
    return repr(first.partition("=")[0][:40])


def _check(config: Config) -> None:
    for key in config.variables:
        if key in OWN_NAMES:
            raise UsageError(f"{config.at(key)}: {key} is ours to set", "choose another name")
    _check_typos(config)
    if not any((config.commands[s] or "").strip() for s in STAGES):
        keys = ", ".join(COMMAND_KEYS)
        raise UsageError(
            f"{config.path}: no stage command at all", f"it needs at least one of {keys}"
        )
    for key in TIMEOUT_KEYS:
        _check_number(config, key, float, 0, strict=True)
    for key in (*RETRY_KEYS, "INFRASTRUCTURE_RETRIES"):
        _check_number(config, key, int, 0, strict=False)
    _check_secrets(config)


def _check_number(config: Config, key: str, kind: Any, least: float, *, strict: bool) -> None:
    text = config.variables.get(key, "").strip()
    if not text:
        return
    try:
        value = kind(text)
    except ValueError:
        value = float("nan")
    good = value > least if strict else value >= least
    if not good or value == float("inf"):
        wanted = "a number of seconds above 0" if strict else "a whole number from 0"
        raise UsageError(f"{config.at(key)}: {key}={text!r} is not {wanted}")


def _check_secrets(config: Config) -> None:
    secret = config.secret_names
    for key in COMMAND_KEYS:
        command = config.variables.get(key, "")
        for name in sorted(secret):
            value = config.variables.get(name, "")
            held = len(value) >= _MIN_SECRET_LENGTH and value in command
            if held or name in tokens_in(command):
                raise UsageError(
                    f"{config.at(key)}: {key} contains the secret {name}",
                    f"write ${name}: commands are stored, secrets are not",
                )


def _likely(key: str) -> str | None:
    """The key of ours that ``key`` is probably a slip of, or None."""
    near = difflib.get_close_matches(key.upper(), KNOWN_KEYS, n=1, cutoff=_LIKELY)
    return near[0] if near and key not in KNOWN_KEYS else None


def _check_typos(config: Config) -> None:
    """A slip whose right form is absent would silently change the run, so it is refused."""
    for key in config.variables:
        meant = _likely(key)
        if meant is not None and meant not in config.variables:
            raise UsageError(f"{config.at(key)}: unknown key {key}; did you mean {meant}?")


def _typos(config: Config) -> Iterable[str]:
    for key in config.variables:
        meant = _likely(key)
        if meant is not None:
            yield f"{config.at(key)}: {key} looks like {meant}, which is set too"
