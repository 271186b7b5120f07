"""Pointers: numbered, create-only generations; the highest is live.

``PointerHistory`` is pure: what is live, what holds it, where a rollback leads. ``Pointers`` reads and
creates generations in a store.

A rollback thinks in origins: the generation that first brought a checkpoint. Rolling to an older origin
withdraws the one that is left; without a wish it goes to the newest older origin that is not withdrawn,
so pressing it twice never brings the bad student back; rolling to a withdrawn one reinstates it. Several
origins may have brought the same bytes: they are withdrawn and reinstated together, and a rollback without
a wish never stays on the bytes that it is to leave.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence, Set
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import unquote

from launcher.errors import ConflictError, IntegrityError, UnavailableError, UsageError
from launcher.retry import retried
from launcher.storage.port import (
    ObjectExistsError,
    ObjectNotFoundError,
    ObjectStore,
    key_part,
)
from ledger.canonical import canonical_json
from ledger.events import Generation, PreviousGeneration
from ledger.ids import check_pointer_name

__all__ = ["NoRollbackTargetError", "PointerHistory", "Pointers"]

_MIN_DIGEST_PREFIX: Final = 12
_GENERATION_KEY: Final = re.compile(r".*/[0-9]{8}\.json")


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
    generations: Sequence[Generation]

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
        """Origins whose checkpoint was rolled back from, and neither gone back to nor promoted again since."""
        out: set[str | None] = set()
        live: Generation | None = None
        for body in self.generations:
            if body.kind == "fence":
                continue
            if body.kind == "rollback" and live is not None and body.origin < live.origin:
                out.add(live.digest)
            out.discard(body.digest)
            live = body
        return frozenset(g.origin for g in self.generations if _first(g) and g.digest in out)

    def rollback_target(self, to: str | None) -> Generation:
        """The generation that a rollback should name.

        ``to``: digits are a generation; else a run id (or a unique prefix or suffix of one) or a digest
        (or at least 12 of its hex digits). None: the newest older origin that is not withdrawn.
        What it names may be live already. Raises NoRollbackTargetError, UsageError.
        """
        if to is not None:
            return self._named(to)
        live, out = self.effective, self.withdrawn()
        if live is not None:
            for body in reversed(self.generations[: live.origin - 1]):
                if _first(body) and body.origin not in out and body.digest != live.digest:
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
                shown = ", ".join(f"g{b.generation}" for b in fits)
                raise UsageError(f"{to!r} names several of {self.name}: {shown}", "say more of it")
            if fits:
                return fits[-1]
        raise UsageError(
            f"{self.name} never named {to!r}",
            f"a generation, a run, or {_MIN_DIGEST_PREFIX} digits of a digest: "
            f"launcher pointers {self.name}",
        )

    def _runs(self, text: str) -> list[Generation]:
        if not text:
            return []
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


def _first(body: Generation) -> bool:
    """Whether ``body`` is an origin."""
    return body.kind in ("promotion", "adoption")


class Pointers:
    """The pointers of a store. Generations never change, so each is read once."""

    def __init__(self, store: ObjectStore) -> None:
        self.store = store
        self._read: dict[str, list[Generation]] = {}

    def history(self, name: str) -> PointerHistory:
        """Every generation of ``name``, as of now. Raises IntegrityError for a gap or an unreadable body.

        Once some are known it is asked for the next one only, which costs the same however many there are.
        """
        prefix = self._prefix(name)
        bodies = self._read.setdefault(name, [])
        if bodies and not self.store.exists(_key(prefix, len(bodies) + 1)):
            return PointerHistory(name, tuple(bodies))
        after = _key(prefix, len(bodies)) if bodies else ""
        for info in self.store.list(prefix, after):
            if not _GENERATION_KEY.fullmatch(info.key):
                continue
            expected = _key(prefix, len(bodies) + 1)
            if info.key != expected:
                raise IntegrityError(f"{name}: {expected} is missing from {self.store.where}")
            bodies.append(self._parse(name, len(bodies) + 1, info.key))
        return PointerHistory(name, tuple(bodies))

    def newest(self, name: str, known: Generation | None = None) -> Generation | None:
        """The live generation, for a follower: those before it are not read. ``known``: its last answer.

        Where nothing came since, one question about the next number is all. Raises IntegrityError for a gap.
        """
        prefix, number = self._prefix(name), known.generation if known else 0
        if known is not None and not self.store.exists(_key(prefix, number + 1)):
            return known
        after = _key(prefix, number) if known else ""
        keys = [i.key for i in self.store.list(prefix, after) if _GENERATION_KEY.fullmatch(i.key)]
        if not keys:
            return known
        for key in keys:
            number += 1
            if key != _key(prefix, number):
                raise IntegrityError(
                    f"{name}: {_key(prefix, number)} is missing from {self.store.where}"
                )
        return self._parse(name, number, keys[-1])

    def recall(self, name: str, account: Sequence[Generation]) -> None:
        """Take a ledger's account (from 1, contiguous) for read, if the newest one of it is what is stored.

        Otherwise nothing is taken, and ``history`` reads everything. Older ones are the audit's to compare.
        """
        if self._read.get(name) or not account:
            return
        newest = account[-1]
        try:
            stored = self._parse(
                name, newest.generation, _key(self._prefix(name), newest.generation)
            )
        except IntegrityError:
            return
        if stored == newest:
            self._read[name] = list(account)

    def create(self, body: Generation) -> None:
        """Create a generation: the moment it is live. Raises ObjectExistsError: somebody else has the number.

        Where the store does not answer, what is there is read, and the same create is made again.
        """
        key = _key(self._prefix(body.name), body.generation)
        data = canonical_json(body.model_dump(mode="json"))
        try:
            self.store.create(key, data)
        except UnavailableError:
            retried(lambda: self._create_again(key, data))
        known = self._read.setdefault(body.name, [])
        if len(known) == body.generation - 1:  # what was created need not be read back
            known.append(body)

    def known(self, name: str) -> PointerHistory:
        """``history`` as of the last look, or with what was created here since; asks nobody."""
        return PointerHistory(name, tuple(self._read.get(name, ())))

    def names(self) -> list[str]:
        """Every pointer that has a generation, ascending."""
        keys = [i.key for i in self.store.list("pointers/") if _GENERATION_KEY.fullmatch(i.key)]
        return sorted({unquote(key.split("/")[1]) for key in keys if key.count("/") == 2})

    def write_view(self, name: str) -> None:
        """Write ``pointers/<name>.json``, a convenience that nothing of ours trusts: the newest known."""
        live = (self.known(name) if self._read.get(name) else self.history(name)).live
        if live is not None:
            view = canonical_json(live.model_dump(mode="json"))
            self.store.replace(self.view_key(name), view)

    def view_key(self, name: str) -> str:
        """Under what the view of ``name`` lies."""
        return self._prefix(name).rstrip("/") + ".json"

    def stored(self, name: str) -> dict[int, Generation | IntegrityError]:
        """Whatever is stored under each number, ascending, gaps and what cannot be read included: for checks."""
        prefix = self._prefix(name)
        keys = [i.key for i in self.store.list(prefix) if _GENERATION_KEY.fullmatch(i.key)]
        found: dict[int, Generation | IntegrityError] = {}
        for key in keys:
            number = int(key[len(prefix) :].removesuffix(".json"))
            try:
                found[number] = self._parse(name, number, key)
            except IntegrityError as exc:
                found[number] = exc
        return found

    def _create_again(self, key: str, data: bytes) -> None:
        try:
            there = self.store.read(key)
        except ObjectNotFoundError:
            self.store.create(key, data)
            return
        if there != data:
            raise ObjectExistsError(key)

    def _prefix(self, name: str) -> str:
        folder = key_part(check_pointer_name(name), "pointer name")
        if folder.endswith(".json"):
            raise UsageError(f"pointer name {name}: .json is the ending of a pointer's view")
        return f"pointers/{folder}/"

    def _parse(self, name: str, number: int, key: str) -> Generation:
        try:
            body = Generation(**json.loads(self.store.read(key)))
        except (ValueError, TypeError) as exc:
            raise IntegrityError(f"{key} in {self.store.where} is no generation") from exc
        if (body.name, body.generation) != (name, number):
            said = f"{body.name} g{body.generation}"
            raise IntegrityError(f"{key} in {self.store.where} says that it is {said}")
        return body


def _key(prefix: str, number: int) -> str:
    return f"{prefix}{number:08d}.json"
