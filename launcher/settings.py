"""Settings: flags first, then LAUNCHER_*, then defaults. No file is read here.

| setting         | environment              | unit    | default                    |
|-----------------|--------------------------|---------|----------------------------|
| home            | LAUNCHER_HOME            | folder  | runs/self_distill          |
| store           | LAUNCHER_STORE           | place   | <home>/objects             |
| ledger          | LAUNCHER_LEDGER          | where   | store if that is a bucket  |
| project         | LAUNCHER_PROJECT         | name    | the root folder's name     |
| actor           | LAUNCHER_ACTOR           | name    | user@host                  |
| grace_seconds   | LAUNCHER_GRACE_SECONDS   | seconds | 10, between TERM and KILL  |
| patience        | LAUNCHER_PATIENCE        | seconds | 3600, for a bucket away    |
| gc_grace_days   | LAUNCHER_GC_GRACE_DAYS   | days    | 7, after a run's end       |
| gc_keep         | LAUNCHER_GC_KEEP         | number  | all generations of each    |
| quota_bytes     | LAUNCHER_QUOTA_BYTES     | bytes   | none; 500GB, 2TiB too      |
| prices          | LAUNCHER_PRICES          | an hour | none; see launcher.prices  |

A store is a folder or ``s3://bucket/prefix``. A ledger is ``sqlite``, the file ``<home>/ledger.db``, or ``store``:
segments in the store, which everybody who has the store then shares.
"""

from __future__ import annotations

import getpass
import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Final, Literal

from launcher.errors import UsageError
from launcher.prices import Prices
from launcher.storage.bucket_url import is_bucket, normal_url

__all__ = ["DEFAULT_HOME", "Settings"]

_LEDGERS: Final[tuple[Literal["sqlite", "store"], ...]] = ("sqlite", "store")
_SIZE: Final = re.compile(r"([0-9]{1,18}(?:\.[0-9]{1,6})?) ?(?:([kmgtp])(i)?)?b?", re.IGNORECASE)
DEFAULT_HOME: Final = "runs/self_distill"


@dataclass(frozen=True, slots=True)
class Settings:
    """Where things are and who acts. Relative paths are relative to the project root."""

    home: Path
    store: str | None
    project: str
    actor: str
    grace_seconds: float = 10.0
    ledger: Literal["sqlite", "store"] = "sqlite"
    gc_grace_days: float = 7.0
    gc_keep: int | None = None
    patience_seconds: float = 3600.0
    quota_bytes: int | None = None
    prices: Prices | None = None

    @classmethod
    def from_environment(
        cls, env: Mapping[str, str], root: Path, overrides: Mapping[str, str]
    ) -> Settings:
        """The settings of a command called in ``root``. Raises UsageError for a value that cannot be."""
        home = overrides.get("home") or env.get("LAUNCHER_HOME") or DEFAULT_HOME
        flag = overrides.get("store")
        store = flag or env.get("LAUNCHER_STORE") or None
        place = _place("--store" if flag else "LAUNCHER_STORE", store, root) if store else None
        project = env.get("LAUNCHER_PROJECT") or root.name or "project"
        prices = env.get("LAUNCHER_PRICES")
        return cls(
            home=Path(_folder("--home" if overrides.get("home") else "LAUNCHER_HOME", home)),
            store=place,
            project=_printable("LAUNCHER_PROJECT (default: this folder's name)", project),
            actor=_printable("LAUNCHER_ACTOR", env.get("LAUNCHER_ACTOR") or _who()),
            grace_seconds=_number(env, "LAUNCHER_GRACE_SECONDS", 10.0, "seconds"),
            ledger=_ledger(env.get("LAUNCHER_LEDGER"), place),
            gc_grace_days=_number(env, "LAUNCHER_GC_GRACE_DAYS", 7.0, "days"),
            gc_keep=_generations(env.get("LAUNCHER_GC_KEEP")),
            patience_seconds=_number(env, "LAUNCHER_PATIENCE", 3600.0, "seconds", 7 * 86400),
            quota_bytes=_bytes("LAUNCHER_QUOTA_BYTES", env.get("LAUNCHER_QUOTA_BYTES")),
            prices=Prices.parse(prices) if prices else None,
        )

    @property
    def outlast_seconds(self) -> float:
        """How long a run goes on while its store does not answer: a bucket may be away, a folder is not."""
        return self.patience_seconds if self.store and is_bucket(self.store) else 0.0

    def home_in(self, root: Path) -> Path:
        """The home, absolute."""
        return root / self.home

    def store_in(self, root: Path) -> str:
        """Where the store is: a folder's absolute path, or a bucket's URL."""
        return self.store or str(self.home_in(root) / "objects")


def _who() -> str:
    try:
        user = getpass.getuser()
    except (OSError, KeyError):
        user = "unknown"
    return f"{user}@{socket.gethostname()}"


def _place(name: str, value: str, root: Path) -> str:
    """A store: a bucket's URL as it is, a folder made absolute."""
    if is_bucket(value):
        return normal_url(_printable(name, value, most=2048))
    return str(root / _folder(name, value, "a folder, or s3://bucket/prefix"))


def _ledger(value: str | None, store: str | None) -> Literal["sqlite", "store"]:
    if not value:
        return "store" if store and is_bucket(store) else "sqlite"
    for known in _LEDGERS:
        if value == known:
            return known
    raise UsageError(f"LAUNCHER_LEDGER={value[:60]!r} is neither sqlite nor store")


def _folder(name: str, value: str, wanted: str = "a folder") -> str:
    scheme, url, _ = value.partition("://")
    if url:
        # Only the scheme is shown: a URL may hold a password.
        shown = scheme if scheme.isalnum() else "a URL"
        raise UsageError(f"{name} is {shown}://…: it must be {wanted}")
    if value.startswith("~"):
        raise UsageError(f"{name}={value!r}: no shell expanded the ~", "write the path out")
    return _printable(name, value, most=4096)


def _printable(name: str, value: str, most: int = 200) -> str:
    if len(value) > most or not value.isprintable():
        raise UsageError(f"{name} must be printable text of at most {most} characters")
    return value


def _number(
    env: Mapping[str, str], name: str, default: float, unit: str, most: int = 3600
) -> float:
    text = env.get(name)
    if not text:
        return default
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= most:
        raise UsageError(f"{name}={text!r} is not a number of {unit} from 0 to {most}")
    return value


def _generations(text: str | None) -> int | None:
    if not text or text == "all":
        return None
    if text.isascii() and text.isdigit() and len(text) < 7 and int(text) > 0:
        return int(text)
    raise UsageError(f"LAUNCHER_GC_KEEP={text[:60]!r} is neither all nor a number from 1")


def _bytes(name: str, text: str | None) -> int | None:
    """``500000000000``, ``500GB``, ``1.5 TiB``; decimal units are powers of 1000, those with an i of 1024."""
    if not text:
        return None
    found = _SIZE.fullmatch(text.strip())
    if found is None:
        raise UsageError(f"{name}={text[:60]!r} is no size", "bytes, or a number with a unit: 2TB")
    power = " kmgtp".index((found[2] or " ").lower())
    return int(Decimal(found[1]) * (1024 if found[3] else 1000) ** power)
