"""Pointers: numbered, create-only generations; the highest is live.

``PointerHistory`` is pure: what is live, what holds it, where a rollback leads. ``Pointers`` reads and
creates generations in a store.

A rollback thinks in origins: the generation that first brought a checkpoint. Rolling to an older origin
withdraws the one that is left; without a wish it goes to the newest older origin that is not withdrawn,
so pressing it twice never brings the bad student back; rolling to a withdrawn one reinstates it.
"""

from __future__ import annotations

import json
from collections.abc import Set
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, unquote

from pydantic import ValidationError

from launcher.errors import ConflictError, IntegrityError, UsageError
from launcher.storage.port import ObjectStore
from ledger.canonical import canonical_json
from ledger.events import Generation, PreviousGeneration
from ledger.ids import check_pointer_name

__all__ = ["NoRollbackTargetError", "PointerHistory", "Pointers"]

_MIN_DIGEST_PREFIX = 12


class NoRollbackTargetError(ConflictError):
    """There is no earlier checkpoint that was not rolled back from."""

    def __init__(self, name: str) -> None:
        super().__init__(
            f"{name}: no earlier checkpoint that was not withdrawn",
            f"launcher pointers {name} shows them; --to takes any of them",
        )
        self.name = name


@dataclass(frozen=True, slots=True)
class PointerHistory:
    """Generations of one pointer, ascending and contiguous from 1."""

    name: str
    generations: tuple[Generation, ...] | list[Generation]

    @property
    def latest(self) -> int:
        """The highest number; 0 for none."""
        return len(self.generations)

    @property
    def live(self) -> Generation | None:
        """The highest generation. A fence carries the checkpoint that was live before it."""
        return self.generations[-1] if self.generations else None

    def get(self, number: int) -> Generation | None:
        """One generation, or None."""
        return self.generations[number - 1] if 1 <= number <= self.latest else None

    @property
    def effective(self) -> Generation | None:
        """The live generation, fences skipped: the decision that put the live checkpoint there."""
        return next((g for g in reversed(self.generations) if g.kind != "fence"), None)

    def held_by(self, released: Set[int]) -> Generation | None:
        """The rollback that holds this pointer against automatic promotions, unless it was released."""
        last = self.effective
        held = last is not None and last.kind == "rollback" and last.generation not in released
        return last if held else None

    def withdrawn(self) -> frozenset[int]:
        """Origins that were rolled back from and not reinstated since."""
        out: set[int] = set()
        live: int | None = None
        for body in self.generations:
            if body.kind == "fence":
                continue
            if body.kind == "rollback":
                out.discard(body.origin)
                if live is not None and body.origin < live:
                    out.add(live)
            live = body.origin
        return frozenset(out)

    def rollback_target(self, to: str | None) -> Generation:
        """The generation that a rollback should name.

        ``to``: digits are a generation; else a run id (or a unique prefix or suffix of one) or a digest
        (or at least 12 of its hex digits). Raises NoRollbackTargetError, UsageError.
        """
        if to is not None:
            return self._named(to)
        live, out = self.effective, self.withdrawn()
        if live is not None:
            for body in reversed(self.generations):
                first = body.kind in ("promotion", "adoption")
                if first and body.origin < live.origin and body.origin not in out:
                    return body
        raise NoRollbackTargetError(self.name)

    def _named(self, to: str) -> Generation:
        if to.isascii() and to.isdigit():
            body = self.get(int(to))
            if body is None:
                raise UsageError(f"{self.name} has no generation {to}", f"it is at g{self.latest}")
            if body.digest is None:
                raise UsageError(f"g{to} of {self.name} names no checkpoint")
            return body
        bare = to.removeprefix("sha256:")
        for fits in (self._runs(to), self._digests(bare)):
            if len({b.digest for b in fits}) > 1:
                raise UsageError(
                    f"{to!r} names several checkpoints of {self.name}", "say more of it"
                )
            if fits:
                return fits[-1]
        raise UsageError(f"{self.name} never named {to!r}", f"launcher pointers {self.name}")

    def _runs(self, text: str) -> list[Generation]:
        mine = [g for g in self.generations if g.run_id and g.digest and g.kind != "fence"]
        exact = [g for g in mine if g.run_id == text]
        return exact or [
            g for g in mine if g.run_id and (g.run_id.startswith(text) or g.run_id.endswith(text))
        ]

    def _digests(self, text: str) -> list[Generation]:
        if len(text) < _MIN_DIGEST_PREFIX:
            return []
        return [g for g in self.generations if g.digest and g.digest[7:].startswith(text)]

    # --- the next generation's body ---

    def promotion_body(self, **fields: Any) -> Generation:
        """The body of a promotion as the next generation."""
        number = self.latest + 1
        return self._body(kind="promotion", generation=number, origin=number, **fields)

    def adoption_body(self, **fields: Any) -> Generation:
        """The body that takes over a file which was there before the first promotion."""
        number = self.latest + 1
        return self._body(
            kind="adoption",
            generation=number,
            origin=number,
            automatic=False,
            run_id=None,
            **fields,
        )

    def rollback_body(self, to: Generation, **fields: Any) -> Generation:
        """The body of a rollback to ``to``."""
        return self._body(
            kind="rollback",
            generation=self.latest + 1,
            origin=to.origin,
            automatic=False,
            digest=to.digest,
            size_bytes=to.size_bytes,
            run_id=to.run_id,
            **fields,
        )

    def fence_body(self, **fields: Any) -> Generation:
        """The body that takes the next number so that nobody else can; nothing changes by it."""
        live, number = self.live, self.latest + 1
        return self._body(
            kind="fence",
            generation=number,
            origin=live.origin if live else number,
            automatic=False,
            digest=live.digest if live else None,
            size_bytes=live.size_bytes if live else None,
            run_id=live.run_id if live else None,
            **fields,
        )

    def _body(self, **fields: Any) -> Generation:
        live = self.live
        previous = PreviousGeneration(
            generation=live.generation if live else 0, digest=live.digest if live else None
        )
        return Generation(name=self.name, previous=previous, **fields)


class Pointers:
    """The pointers of a store."""

    def __init__(self, store: ObjectStore) -> None:
        self.store = store

    def history(self, name: str) -> PointerHistory:
        """Every generation of ``name``. Raises IntegrityError for a gap or an unreadable body."""
        prefix = self._prefix(name)
        bodies: list[Generation] = []
        for info in self.store.list(prefix):
            expected = f"{prefix}{len(bodies) + 1:08d}.json"
            if info.key != expected:
                raise IntegrityError(f"{name}: {expected} is missing from {self.store.where}")
            bodies.append(self._parse(info.key, self.store.read(info.key)))
        return PointerHistory(name, tuple(bodies))

    def create(self, body: Generation) -> None:
        """Create a generation: the moment it is live. Raises ObjectExistsError."""
        key = f"{self._prefix(body.name)}{body.generation:08d}.json"
        self.store.create(key, canonical_json(body.model_dump(mode="json")))

    def names(self) -> list[str]:
        """Every pointer that has a generation, ascending."""
        folders = {
            i.key.split("/")[1] for i in self.store.list("pointers/") if i.key.count("/") == 2
        }
        return sorted(unquote(folder) for folder in folders)

    def write_view(self, name: str) -> None:
        """Write ``pointers/<name>.json``, a convenience that nothing of ours trusts."""
        live = self.history(name).live
        if live is not None:
            view = canonical_json(live.model_dump(mode="json"))
            self.store.replace(self._prefix(name).rstrip("/") + ".json", view)

    def _prefix(self, name: str) -> str:
        return f"pointers/{quote(check_pointer_name(name), safe='')}/"

    def _parse(self, key: str, data: bytes) -> Generation:
        try:
            return Generation(**json.loads(data))
        except (ValueError, TypeError, ValidationError) as exc:
            raise IntegrityError(f"{key} in {self.store.where} is no generation") from exc
