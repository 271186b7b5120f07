"""Whether a ledger is what was written: every check that needs nothing but its bytes. Pure, one pass.

Feed ``LedgerAudit`` the stored events in the order in which the store gives them, then ``finish`` it with the
kept heads. It never raises for what it finds: each thing that is wrong becomes a ``Problem``, and what
follows from it alone is not reported again.

Checks: ``bytes`` (canonical, an event, small enough), ``order`` (positions, versions, the store's index, ids
said once), ``ids`` (deterministic ones), ``history`` (legal transitions) and ``heads`` (the Merkle root against
every kept head, and against heads that an auditor kept elsewhere).

What no unsigned ledger can show by itself: a tail that was cut off, or written anew, together with its heads.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

from ledger import events as e
from ledger.canonical import NotCanonicalError, canonical_json, parse_json
from ledger.decider import RunState, evolve
from ledger.errors import IllegalTransitionError, InvalidNameError, LedgerDamagedError
from ledger.identity import identify
from ledger.ids import check_stream, promotion_id
from ledger.pointers import PointerState, evolve_pointer
from ledger.records import parse
from ledger.slots import PipelineState, evolve_pipeline
from ledger.stores.port import StoredEvent, TreeHead
from ledger.transparency.merkle import EMPTY_ROOT, Frontier, leaf_hash

__all__ = ["LedgerAudit", "Named", "Problem", "named_blobs"]

_STORAGE_EVENTS: Final = (e.StorageMeasured, e.GarbagePlanned, e.GarbageCollected)
_FOLDER_EVENTS: Final = (e.RunFolderRetired, e.RunFolderRestored)


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong: in which check, where (for a person), what; ``position`` if it is an event's."""

    check: str
    where: str
    what: str
    position: int | None = None


@dataclass(frozen=True, slots=True)
class Named:
    """A blob that the ledger names. ``size_bytes`` None where the ledger does not say it.

    ``position`` is the event's that names it, -1 where none does; ``stream`` that event's.
    """

    digest: str
    size_bytes: int | None
    what: str
    manifest: bool = False
    position: int = -1
    stream: str = ""


@dataclass
class LedgerAudit:
    """The pass. ``where`` is what a person would call the ledger.

    Afterwards ``runs`` and ``pointers`` hold the state of every stream without a problem of its own (those
    with one are in ``broken``), ``closed`` the facts of each ended attempt by (run id, stage, attempt),
    ``roots`` the root at each size.
    """

    where: str
    problems: list[Problem] = field(default_factory=list)
    runs: dict[str, RunState] = field(default_factory=dict)
    pointers: dict[str, PointerState] = field(default_factory=dict)
    pipelines: dict[str, PipelineState] = field(default_factory=dict)
    streams: dict[str, int] = field(default_factory=dict)
    broken: set[str] = field(default_factory=set)
    named: list[Named] = field(default_factory=list)
    closed: dict[tuple[str, str, int], list[e.EventData]] = field(default_factory=dict)
    kept: list[e.Recorded[Any]] = field(default_factory=list)
    roots: list[bytes] = field(default_factory=lambda: [EMPTY_ROOT])
    newer: int = 0
    first_newer: tuple[str, int] | None = None

    def __post_init__(self) -> None:
        self._frontier = Frontier()
        self._next = 0
        self._missing = 0
        #: How many events were seen before the first that is missing or there twice.
        self._whole: int | None = None
        self._ids: dict[str, int] = {}

    @property
    def size(self) -> int:
        """How many events were seen."""
        return len(self.roots) - 1

    @property
    def head(self) -> TreeHead:
        """The head of what was seen."""
        return TreeHead(self.size, self.roots[-1])

    def _bad(self, check: str, position: int, what: str) -> None:
        self.problems.append(Problem(check, f"position {position}", what, position))

    # --- one event ---

    def add(self, stored: StoredEvent) -> None:
        """The next event of the store."""
        self._frontier = self._frontier.append(leaf_hash(stored.raw))
        self.roots.append(self._frontier.root())
        self._place(stored)
        record = self._parsed(stored)
        if record is None:
            self.broken.add(stored.stream)
            self.streams[stored.stream] = stored.version
            return
        self._indexed(stored, record)
        self._said_once(record)
        self._follow(record)

    def _place(self, stored: StoredEvent) -> None:
        if stored.position > self._next:
            gone = stored.position - self._next
            self._missing += gone
            what = f"{gone} event{'s are' if gone > 1 else ' is'} missing"
            self._bad("order", self._next, what)
        elif stored.position < self._next:
            self._bad("order", stored.position, "it is out of order")
        if stored.position != self._next and self._whole is None:
            self._whole = self.size - 1
        self._next = stored.position + 1

    def _parsed(self, stored: StoredEvent) -> e.Recorded[Any] | None:
        position, raw = stored.position, stored.raw
        try:
            if canonical_json(parse_json(raw)) != raw:
                self._bad("bytes", position, "its bytes are not canonical: they were changed")
                return None
            record = parse(position, raw, self.where)
            check_stream(record.stream)
        except LedgerDamagedError as exc:
            self._bad("bytes", position, exc.detail)
        except (ValueError, NotCanonicalError, InvalidNameError) as exc:
            self._bad("bytes", position, f"no event: {exc}")
        else:
            if len(raw) > e.EVENT_LIMIT_BYTES:
                self._bad("bytes", position, f"it has {len(raw)} bytes, too many for an event")
            return record
        return None

    def _indexed(self, stored: StoredEvent, record: e.Recorded[Any]) -> None:
        for name in ("id", "stream", "version"):
            indexed, said = getattr(stored, name), getattr(record, name)
            if indexed != said:
                what = f"the index has {name} {indexed!r}, the bytes say {said!r}"
                self._bad("order", record.position, what)
                self.broken |= {stored.stream, record.stream}
        expected = self.streams.get(record.stream, 0) + 1
        if record.version != expected:
            self.broken.add(record.stream)
            if 0 < record.version - expected <= self._missing:
                self._missing -= record.version - expected  # that of a gap which was reported
            else:
                what = f"it is version {record.version} of {record.stream}, {expected} was due"
                self._bad("order", record.position, what)
        self.streams[record.stream] = record.version

    def _said_once(self, record: e.Recorded[Any]) -> None:
        first = self._ids.setdefault(record.id, record.position)
        if first != record.position:
            self._bad("order", record.position, f"its id is that of position {first}")
        data = record.data
        if isinstance(data, e.NewerEvent):
            self.newer += 1
            self.first_newer = self.first_newer or (data.newer_type, data.newer_schema)
            return
        # A measurement's id holds a key that the event does not, and an older schema's id its own fields.
        if isinstance(data, _STORAGE_EVENTS) or record.schema != type(data).schema_version:
            return
        if identify(record.stream, data).id != record.id:
            self._bad("ids", record.position, f"its id is not the one of this {record.type}")
        body = getattr(data, "generation", None)
        if isinstance(body, e.Generation) and not _decided_once(body):
            what = f"its promotion id is not the one of run {body.run_id} and {body.name}"
            self._bad("ids", record.position, what)

    def _follow(self, record: e.Recorded[Any]) -> None:
        """Fold the event into its stream; the first illegal one ends what is said of that stream."""
        for named in (*named_blobs(record), *_named_plan(record)):
            self.named.append(replace(named, position=record.position, stream=record.stream))
        stream, data = record.stream, record.data
        kind, _, name = stream.partition("/")
        if kind != "run":
            self.kept.append(record)
        if stream in self.broken:
            return
        try:
            if kind == "run":
                self._follow_run(name, record)
            elif kind == "pointer":
                state = self.pointers.get(name) or PointerState(stream)
                _same_name(stream, data, name)
                self.pointers[name] = evolve_pointer(state, record)
            elif kind == "pipeline":
                pipeline = self.pipelines.get(name) or PipelineState(stream)
                self.pipelines[name] = evolve_pipeline(pipeline, record)
            elif not isinstance(data, (*_STORAGE_EVENTS, *_FOLDER_EVENTS, e.NewerEvent)):
                raise IllegalTransitionError(
                    stream, "storage", record.type, "not one of its events"
                )
        except IllegalTransitionError as exc:
            self._bad("history", record.position, str(exc))
            self.broken.add(stream)

    def _follow_run(self, run_id: str, record: e.Recorded[Any]) -> None:
        data = record.data
        if isinstance(data, e.RunRequested) and data.run_id != run_id:
            raise IllegalTransitionError(record.stream, "its own", record.type, data.run_id)
        state = evolve(self.runs.get(run_id) or RunState(record.stream), record)
        self.runs[run_id] = state
        if isinstance(data, e.StageSucceeded | e.StageFailed):
            self.closed[run_id, data.stage, data.attempt] = [data]
        elif isinstance(data, e.CheckpointRecorded | e.MetricsRecorded):
            self.closed.setdefault((run_id, data.stage, data.attempt), []).append(data)
        elif isinstance(data, e.RelabelTagsEmitted):
            relabel = state.stages.get("relabel")
            if relabel is not None and relabel.status == "succeeded":
                self.closed[run_id, "relabel", relabel.attempt].append(data)

    # --- the end ---

    def finish(
        self,
        heads: Sequence[TreeHead],
        *,
        streams: Sequence[str],
        newer: tuple[str, int, str | None] | None,
        elsewhere: Sequence[TreeHead] = (),
    ) -> None:
        """What the whole must be: ``heads`` as the store kept them, ``elsewhere`` as an auditor did.

        ``streams`` and ``newer`` are the store's own answers, which must be those of the bytes.
        """
        if self._whole is None and sorted(streams) != sorted(self.streams):
            odd = sorted(set(streams) ^ set(self.streams))[:3]
            self.problems.append(
                Problem("order", self.where, f"its index and its events differ in {', '.join(odd)}")
            )
        if (newer is None) != (self.first_newer is None):
            what = f"its list of schemas says {newer}, its events {self.first_newer}"
            self.problems.append(Problem("order", self.where, what))
        self._against_heads(heads)
        for head in elsewhere:
            self._against_elsewhere(head)

    def _against_heads(self, heads: Sequence[TreeHead]) -> None:
        if self._whole is None:
            self._coverage(heads)
        else:
            lost = sum(head.size > self._whole for head in heads)
            what = f"{lost} heads of more events cannot be compared: see order"
            self.problems.append(Problem("heads", f"from position {self._whole}", what))
        comparable = self.size if self._whole is None else self._whole
        inside = [head for head in heads if head.size <= comparable]
        right = [self.roots[head.size] == head.root for head in inside]
        last_right = max((i for i, good in enumerate(right) if good), default=-1)
        for head, good in zip(inside[: last_right + 1], right, strict=False):
            if not good:
                what = "it is wrong while later ones are right: the head itself was changed"
                self.problems.append(Problem("heads", f"the head of {head.size} events", what))
        wrong = inside[last_right + 1 :]
        if wrong:
            first, last = (inside[last_right].size if last_right >= 0 else 0), wrong[0].size - 1
            more = f", nor do the {len(wrong) - 1} after it" if len(wrong) > 1 else ""
            between = f"position {first}" if first == last else f"positions {first} to {last}"
            what = f"the head of {wrong[0].size} events does not fit{more}: something there was changed"
            self.problems.append(Problem("heads", between, what, first))

    def _coverage(self, heads: Sequence[TreeHead]) -> None:
        newest = heads[-1].size if heads else 0
        if newest > self.size:
            what = f"the newest head is of {newest} events, {self.size} are there: the tail was cut off"
            self.problems.append(Problem("heads", f"position {self.size}", what, self.size))
        elif newest < self.size:
            last = self.size - 1
            what = f"no head covers it{f' and what follows, to {last}' if last > newest else ''}"
            self.problems.append(Problem("heads", f"position {newest}", what, newest))

    def _against_elsewhere(self, head: TreeHead) -> None:
        shown = f"--expect-head {head.size}:{head.root.hex()[:12]}…"
        if self._whole is not None and head.size > self._whole:
            what = "it cannot be compared: see order"
            self.problems.append(Problem("heads", shown, what))
        elif head.size > self.size:
            what = f"the ledger has only {self.size} events: its tail was cut off"
            self.problems.append(Problem("heads", shown, what, self.size))
        elif self.roots[head.size] != head.root:
            what = f"the first {head.size} events are not those that this head was of"
            self.problems.append(Problem("heads", shown, what))


def _decided_once(body: e.Generation) -> bool:
    """Whether an automatic promotion has the one id that its run may ever have for this pointer."""
    own = promotion_id(body.run_id, body.name) if body.automatic and body.run_id else None
    return own is None or body.promotion_id == own


def _same_name(stream: str, data: e.EventData, name: str) -> None:
    body = getattr(data, "generation", None) or getattr(data, "winner", None)
    if isinstance(body, e.Generation) and body.name != name:
        raise IllegalTransitionError(stream, "its own", data.type, body.name)


def named_blobs(record: e.Recorded[Any]) -> Iterator[Named]:
    """The blobs that an event names and that must be in the store."""
    data, of = record.data, record.stream.partition("/")[2]
    match data:
        case e.RunRequested():
            yield from _requested(data, f"run {of}")
        case e.StageSubmitted() if data.handle.task_digest:
            what = f"the task of {data.stage} attempt {data.attempt} of run {of}"
            yield Named(data.handle.task_digest, None, what)
        case e.StageSucceeded() | e.StageFailed():
            what = f"{data.stage} attempt {data.attempt} of run {of}"
            if isinstance(data, e.StageSucceeded):
                yield Named(data.manifest_digest, None, f"the outputs of {what}", manifest=True)
            if data.log_digest:
                yield Named(data.log_digest, None, f"the log of {what}")
        case e.StageReused():
            what = f"the outputs of {data.stage}, reused by run {of}"
            yield Named(data.manifest_digest, None, what, manifest=True)
        case e.CheckpointRecorded():
            yield Named(data.digest, data.size_bytes, data.path)
        case e.RelabelTagsEmitted() if data.digest:
            yield Named(data.digest, data.size_bytes, f"{data.tag_file}, the tags of run {of}")
        case e.PromotionConfirmed() if data.generation.digest:
            body = data.generation
            yield Named(data.generation.digest, body.size_bytes, f"{body.name} g{body.generation}")


def _requested(data: e.RunRequested, run: str) -> Iterator[Named]:
    yield Named(data.config.digest, None, f"the config of {run}")
    for given in data.given:
        if given.stored:
            yield Named(given.digest, given.size_bytes, f"{given.path}, given to {run}")
    if data.provenance.code_digest:
        yield Named(data.provenance.code_digest, None, f"the code of {run}")
    if data.provenance.profile_digest:
        yield Named(data.provenance.profile_digest, None, f"the profile of {run}")


def _named_plan(record: e.Recorded[Any]) -> Iterator[Named]:
    if isinstance(record.data, e.GarbagePlanned):
        yield Named(record.data.plan_digest, None, "the plan of a collection")
