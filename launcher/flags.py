"""What ``submit`` was given on the command line, and what can be wrong with it before anything is looked at."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from launcher import __version__
from launcher.config import Config
from launcher.errors import UsageError
from ledger.errors import InvalidNameError
from ledger.ids import check_label, check_run_id

__all__ = ["Flags", "check", "check_names"]

_MAX_TEXT: Final = 4096
#: The flags that are kept with a run as they are.
_TEXTS: Final = (
    "teacher_checkpoint",
    "teacher_scorecard",
    "promotion_target",
    "promotion_record",
    "storage_alert_file",
    "output_root",
    "relabel_tag_file",
    "note",
)


@dataclass(frozen=True, slots=True)
class Flags:
    """What ``submit`` was given on the command line; None where a flag was not given."""

    run_id: str
    teacher_checkpoint: str | None = None
    teacher_scorecard: str | None = None
    promotion_target: str | None = None
    promotion_record: str | None = None
    storage_alert_file: str | None = None
    output_root: str | None = None
    relabel_tag_file: str | None = None
    overrides: Mapping[str, str] = field(default_factory=dict)
    slot: str | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    note: str | None = None


def check(flags: Flags, config: Config) -> None:
    """Refuse bad names, and a secret's value where it would be kept, before any I/O. Raises UsageError."""
    check_names(flags)
    labels = [text for pair in flags.labels.items() for text in pair]
    paths = [getattr(flags, name) or "" for name in ("run_id", *_TEXTS)]
    for text in (*labels, *paths):
        held = config.secret_in(text)
        if held is not None:
            raise UsageError(
                f"a flag's value contains the secret {held}",
                "what flags say is stored with the run",
            )
    if config.promotion_gate:
        # Without a target, too: a run that looks guarded could later be promoted by hand, unguarded.
        raise UsageError(
            f"{config.at('PROMOTION_GATE')}: PROMOTION_GATE is not supported by this version"
            f" ({__version__})",
            "take it out, and promote by hand with launcher promote",
        )


def check_names(flags: Flags) -> None:
    """Refuse what is outside the allowlists, without looking at anything. Raises UsageError."""
    try:
        check_run_id(flags.run_id)
        for name, value in flags.labels.items():
            check_label(name)
            check_label(value)
    except InvalidNameError as exc:
        raise UsageError(str(exc)) from exc
    for name in _TEXTS:
        text = getattr(flags, name) or ""
        breaks = "\n\t" if name == "note" else ""
        bad = any(not c.isprintable() and c not in breaks for c in text)
        if bad or len(text) > _MAX_TEXT:
            raise UsageError(
                f"--{name.replace('_', '-')} {text[:60]!r} is not printable text"
                f" of at most {_MAX_TEXT} characters"
            )
