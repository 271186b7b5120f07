"""The config: what to run, as an ``.env`` file says it (``launcher.env_file`` reads the text).

Rules:

1. Values are data: ``$VAR``, ``${VAR}`` and ``$(…)`` reach the stage's bash as they are written.
2. What is wrong is said with file and line, and with the key that was probably meant; never with the value
   of a secret.
3. Secrets are the variables whose name ends in KEY, TOKEN, SECRET or PASSWORD, those that SECRET_NAMES
   lists, and every variable whose value contains one of theirs. Their values are never stored.
4. What is stored with a run (commands, and whatever else a key of ours says) holds no secret's value.
"""

from __future__ import annotations

import difflib
import json
import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from launcher.env_file import NAME, parse_assignments, read_text
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
#: Shorter values are no secrets worth looking for: they would be found everywhere.
MIN_SECRET_LENGTH: Final = 8
MAX_TIMEOUT_SECONDS: Final = 1e9
MAX_RETRIES: Final = 1000
_LIKELY: Final = 0.88


@dataclass(frozen=True)
class Config:
    """A parsed config. ``variables`` in file order, secrets included; ``lines`` by key, from 1.

    ``declared_secrets`` are names that are secret whatever they are called; ``outside_secrets`` are secrets
    of the environment, by name, whose values must not be stored either.
    """

    path: str
    variables: Mapping[str, str] = field(repr=False)
    lines: Mapping[str, int] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    declared_secrets: frozenset[str] = frozenset()
    outside_secrets: Mapping[str, str] = field(default_factory=dict, repr=False)

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
        """Globs, split as a shell splits words: one with spaces in it is quoted."""
        return tuple(shlex.split(self.variables.get("INPUTS", "")))

    @property
    def inputs_private(self) -> tuple[str, ...]:
        """As ``inputs``; digested, never stored."""
        return tuple(shlex.split(self.variables.get("INPUTS_PRIVATE", "")))

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
    def listed_secrets(self) -> frozenset[str]:
        """What SECRET_NAMES lists."""
        return frozenset(re.split(r"[\s,]+", self.variables.get("SECRET_NAMES", ""))) - {""}

    @property
    def secret_values(self) -> dict[str, str]:
        """The values to look for, by name: this config's and the environment's own secrets (rule 3)."""
        named = {n: v for n, v in self.variables.items() if self._named_secret(n)}
        both = {**self.outside_secrets, **named}
        return {n: v for n, v in both.items() if len(v) >= MIN_SECRET_LENGTH}

    @property
    def secret_names(self) -> frozenset[str]:
        """The variables whose values are never stored (rule 3)."""
        named = {n for n in self.variables if self._named_secret(n)}
        values = self.secret_values.values()
        tainted = {n for n, text in self.variables.items() if any(v in text for v in values)}
        return frozenset(named | (tainted - COMMAND_KEYS.keys()) | self.declared_secrets)

    def secret_in(self, text: str) -> str | None:
        """The name of a secret whose value stands in ``text``, or None."""
        return next((n for n, v in sorted(self.secret_values.items()) if v in text), None)

    def knowing(self, environment: Mapping[str, str]) -> Config:
        """This config, checked against the secrets of an environment too. Raises UsageError."""
        listed = self.listed_secrets
        outside = {
            n: v
            for n, v in environment.items()
            if n not in self.variables and (_SECRET_NAME.search(n) or n in listed)
        }
        changed = replace(self, outside_secrets=outside)
        _check_secrets(changed)
        return changed

    def with_overrides(self, overrides: Mapping[str, str]) -> Config:
        """This config with ``--set`` values over it, checked again. Raises UsageError."""
        changed = self._overridden(overrides)
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

    def _named_secret(self, name: str) -> bool:
        return bool(_SECRET_NAME.search(name)) or name in self.listed_secrets

    def _overridden(self, overrides: Mapping[str, str]) -> Config:
        for name, value in overrides.items():
            if not NAME.fullmatch(name):
                raise UsageError(f"--set {name!r} is no variable name")
            if "\x00" in value or not _encodes(value):
                raise UsageError(f"--set {name}: its value is not UTF-8 text")
        lines = {k: line for k, line in self.lines.items() if k not in overrides}
        return replace(self, variables={**self.variables, **overrides}, lines=lines)

    def _number(self, key: str) -> float | None:
        text = self.variables.get(key, "").strip()
        return float(text) if text else None

    def _count(self, key: str, default: int) -> int:
        text = self.variables.get(key, "").strip()
        return int(text) if text else default


def load(path: Path, overrides: Mapping[str, str] | None = None) -> Config:
    """Read, override and check a config. Raises UsageError, with the line where it has one."""
    return parse(read_text(path), str(path), overrides)


def parse(text: str, path: str, overrides: Mapping[str, str] | None = None) -> Config:
    """The config that ``text`` holds, ``overrides`` over it. Raises UsageError with ``path:line``."""
    assigned = parse_assignments(text, path, KNOWN_KEYS)
    config = Config(
        path, {a.name: a.value for a in assigned}, {a.name: a.line for a in assigned}
    )._overridden(overrides or {})
    _check(config)
    hidden = [
        f"{path}:{a.line}: the value of {a.name} goes on past line {a.swallowed[0]}, "
        f"where {a.swallowed[1]} begins: is a quote left open?"
        for a in assigned
        if a.swallowed is not None
    ]
    return replace(config, warnings=(*hidden, *_warnings(config)))


# --- checks ------------------------------------------------------------------------------------------


def _check(config: Config) -> None:
    for key in config.variables:
        if key in OWN_NAMES:
            raise UsageError(f"{config.at(key)}: {key} is ours to set", "choose another name")
    for key, meant in _slips(config):
        if meant not in config.variables:
            raise UsageError(f"{config.at(key)}: unknown key {key}; did you mean {meant}?")
    if not any((command or "").strip() for command in config.commands.values()):
        keys = ", ".join(COMMAND_KEYS)
        raise UsageError(
            f"{config.path}: no stage command at all", f"it needs at least one of {keys}"
        )
    for key in TIMEOUT_KEYS:
        wanted = "a number of seconds above 0"
        _check_number(config, key, float, lambda n: 0 < n <= MAX_TIMEOUT_SECONDS, wanted)
    for key in (*RETRY_KEYS, "INFRASTRUCTURE_RETRIES"):
        wanted = f"a whole number from 0 to {MAX_RETRIES}"
        _check_number(config, key, int, lambda n: 0 <= n <= MAX_RETRIES, wanted)
    for key in ("INPUTS", "INPUTS_PRIVATE"):
        try:
            shlex.split(config.variables.get(key, ""))
        except ValueError as exc:
            raise UsageError(f"{config.at(key)}: a quote in {key} is not closed") from exc
    _check_secrets(config)


def _check_number(config: Config, key: str, kind: Any, fits: Any, wanted: str) -> None:
    text = config.variables.get(key, "").strip()
    try:
        good = not text or fits(kind(text))
    except ValueError:
        good = False
    if not good:
        shown = key if key in config.secret_names or len(text) > 40 else f"{key}={text!r}"
        raise UsageError(f"{config.at(key)}: {shown} is not {wanted}")


def _check_secrets(config: Config) -> None:
    for name in sorted(config.listed_secrets):
        if name in KNOWN_KEYS:
            raise UsageError(
                f"{config.at('SECRET_NAMES')}: {name} is stored with the run and cannot be secret"
            )
        near = difflib.get_close_matches(name, config.variables, n=1, cutoff=_LIKELY)
        if near and name not in config.variables:
            raise UsageError(
                f"{config.at('SECRET_NAMES')}: there is no {name}; did you mean {near[0]}?"
            )
    names = config.secret_names | config.outside_secrets.keys()
    for key in (k for k in KNOWN_KEYS if k in config.variables):
        text = config.variables[key]
        held = config.secret_in(text)
        if held is None and key in COMMAND_KEYS:
            held = next((n for n in tokens_in(text) if n in names), None)
        if held is not None:
            hint = f"write ${held}: commands are stored, secrets are not"
            raise UsageError(
                f"{config.at(key)}: {key} contains the secret {held}",
                hint if key in COMMAND_KEYS else "what this key says is stored, secrets are not",
            )


def _slips(config: Config) -> Iterator[tuple[str, str]]:
    """(key, the key of ours that it is probably a slip of). A variable that a command uses is no slip."""
    commands = "\n".join(command or "" for command in config.commands.values())
    for key in config.variables:
        if key in KNOWN_KEYS or re.search(rf"\$\{{?{key}\b", commands):
            continue
        guess = key.upper().replace("COMMAND", "CMD")
        near = difflib.get_close_matches(guess, KNOWN_KEYS, n=1, cutoff=_LIKELY)
        if near:
            yield key, near[0]


def _warnings(config: Config) -> Iterator[str]:
    for key, meant in _slips(config):
        yield f"{config.at(key)}: {key} looks like {meant}, which is set too"
    for key in config.variables:
        if key.startswith("LAUNCHER_"):
            yield f"{config.at(key)}: {key} reaches the stages only; set it in your environment"


def _encodes(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
