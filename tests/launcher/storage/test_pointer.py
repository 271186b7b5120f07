"""What is live, what holds it, and where a rollback leads."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from launcher.errors import IntegrityError, UnavailableError, UsageError
from launcher.storage.filesystem import FilesystemStore
from launcher.storage.pointer import NoRollbackTargetError, PointerHistory, Pointers
from launcher.storage.port import ObjectExistsError
from ledger.canonical import canonical_json
from ledger.events import Generation

TIME = "2026-01-31T02:00:00.000000Z"


def digest(letter: str) -> str:
    return "sha256:" + letter * 64


@dataclass
class Story:
    """Generations, one after another. Checkpoints are hex digits; each is run ``run-<digit>-<number>``'s."""

    name: str = "student"
    bodies: list[Generation] = field(default_factory=list)

    @property
    def history(self) -> PointerHistory:
        return PointerHistory(self.name, tuple(self.bodies))

    def _common(self) -> dict[str, Any]:
        number = len(self.bodies) + 1
        return {"project": "p", "promotion_id": f"id-{number}", "actor": "ana", "time": TIME}

    def promote(self, letter: str, run_id: str | None = None) -> Story:
        number = len(self.bodies) + 1
        body = self.history.promotion_body(
            digest=digest(letter),
            size_bytes=1,
            run_id=run_id or f"run-{letter}-{number}",
            automatic=True,
            **self._common(),
        )
        self.bodies.append(body)
        return self

    def adopt(self, letter: str) -> Story:
        body = self.history.adoption_body(digest=digest(letter), size_bytes=1, **self._common())
        self.bodies.append(body)
        return self

    def fence(self) -> Story:
        self.bodies.append(self.history.fence_body(**self._common()))
        return self

    def back(self, to: str | None = None) -> Story:
        target = self.history.rollback_target(to)
        self.bodies.append(self.history.rollback_body(target, **self._common()))
        return self

    def live(self) -> str | None:
        live = self.history.live
        return live.digest[-1] if live is not None and live.digest is not None else None


def test_nothing_yet() -> None:
    history = Story().history
    assert (history.latest, history.live, history.effective, history.get(1)) == (
        0,
        None,
        None,
        None,
    )
    assert history.held_by(frozenset()) is None
    assert history.withdrawn() == frozenset()
    with pytest.raises(NoRollbackTargetError) as caught:
        history.rollback_target(None)
    assert (caught.value.name, caught.value.exit_code) == ("student", 3)


def test_bodies_say_where_they_come_from() -> None:
    story = Story().adopt("a").promote("b").fence().back().fence().promote("c")
    said = [
        (g.generation, g.kind, g.origin, g.digest, g.previous.generation, g.previous.digest)
        for g in story.bodies
    ]
    a, b, c = digest("a"), digest("b"), digest("c")
    assert said == [
        (1, "adoption", 1, a, 0, None),
        (2, "promotion", 2, b, 1, a),
        (3, "fence", 2, b, 2, b),
        (4, "rollback", 1, a, 3, b),
        (5, "fence", 1, a, 4, a),
        (6, "promotion", 6, c, 5, a),
    ]
    assert story.bodies[3].run_id is None
    assert story.bodies[2].run_id == "run-b-2"


def test_a_fence_at_generation_1_names_nothing() -> None:
    story = Story().fence()
    assert (story.bodies[0].digest, story.bodies[0].origin, story.history.effective) == (
        None,
        1,
        None,
    )
    with pytest.raises(NoRollbackTargetError):
        story.back()
    with pytest.raises(UsageError, match="names no checkpoint"):
        story.back("1")
    story.promote("a")
    assert story.history.live == story.history.effective == story.bodies[1]
    with pytest.raises(NoRollbackTargetError):
        story.back()


def test_a_rollback_holds_until_it_is_released_or_followed_by_a_promotion() -> None:
    story = Story().promote("a").promote("b")
    assert story.history.held_by(frozenset()) is None
    story.back().fence().fence()
    holder = story.history.held_by(frozenset())
    assert holder is not None
    assert holder.generation == 3
    assert story.history.held_by({2}) == holder
    assert story.history.held_by({3}) is None
    assert story.promote("c").history.held_by(frozenset()) is None
    assert story.back().history.held_by({3}) == story.bodies[-1]


def test_pressed_twice_it_goes_further_back_and_never_to_the_bad_one() -> None:
    story = Story().promote("a").promote("b").promote("c")
    assert story.back().live() == "b"
    assert story.back().live() == "a"
    assert story.history.withdrawn() == {2, 3}
    with pytest.raises(NoRollbackTargetError):
        story.back()
    assert story.promote("d").back().live() == "a"


def test_undo_reinstates_and_pressing_again_withdraws_again() -> None:
    story = Story().promote("a").promote("b").back()
    assert story.history.withdrawn() == {2}
    assert story.back("2").live() == "b"
    assert story.history.withdrawn() == frozenset()
    assert story.back().live() == "a"
    assert story.history.withdrawn() == {2}
    assert story.promote("c").back("2").history.withdrawn() == {6}


def test_rolling_forward_withdraws_nothing() -> None:
    story = Story().promote("a").promote("b").promote("c").back("1").back("2")
    assert story.history.withdrawn() == {3}
    assert story.back().live() == "a"


def test_the_same_bytes_promoted_twice_are_left_together() -> None:
    story = Story().promote("a").promote("b").promote("b")
    assert story.back().live() == "a"
    assert story.history.withdrawn() == {2, 3}
    assert story.back("3").history.withdrawn() == frozenset()
    story = Story().promote("a").promote("b").promote("c").promote("b").back()
    assert story.live() == "c"
    assert story.back().live() == "a"


def test_bad_bytes_that_a_person_promotes_again_may_be_gone_back_to() -> None:
    story = Story().promote("a").promote("b").back().promote("b").promote("c")
    assert story.back().live() == "b"


def test_a_target_by_name() -> None:
    story = Story().promote("a", "20260131T020000Z-7f3a").promote("b", "20260201T020000Z-aa31")
    story.promote("c", "20260201T030000Z-bb31").back("1")
    find = story.history.rollback_target
    for to in ("1", "4", "7f3a", "20260131T", digest("a"), "a" * 12, "sha256:" + "a" * 30):
        assert find(to).origin == 1, to
    assert find("20260201T02").origin == find("aa31").origin == find("2").origin == 2
    for to, why in [
        ("20260201T", "several of student: g2, g3"),
        ("31", "no generation 31"),
        ("0", "no generation 0"),
        ("1" * 30, "no generation"),
        ("Z", "never named"),
        ("", "never named"),
        ("a" * 11, "never named"),
        ("sha256:", "never named"),
        (digest("d"), "never named"),
        ("²", "never named"),
    ]:
        with pytest.raises(UsageError, match=why):
            find(to)


def test_one_checkpoint_of_several_runs_is_not_ambiguous() -> None:
    story = Story().promote("a", "x-1").promote("a", "x-2").promote("b", "y")
    assert story.history.rollback_target("x").generation == 2


moves = st.lists(
    st.one_of(
        st.tuples(st.just("promote"), st.sampled_from("abcdef")),
        st.just(("adopt", "9")),
        st.just(("fence", "")),
        st.just(("back", "")),
        st.tuples(st.just("to"), st.integers(1, 20).map(str)),
    ),
    max_size=20,
)


def play(story: Story, moves: list[tuple[str, str]]) -> None:
    for move, what in moves:
        try:
            if move in ("promote", "adopt"):
                getattr(story, move)(what)
            elif move == "fence":
                story.fence()
            else:
                story.back(what or None)
        except (UsageError, NoRollbackTargetError):
            continue


@given(moves)
def test_bodies_hang_together(moves: list[tuple[str, str]]) -> None:
    story = Story()
    play(story, moves)
    history = story.history
    for number, body in enumerate(story.bodies, 1):
        before = history.get(number - 1)
        assert body.generation == number
        assert body.previous.generation == number - 1
        assert body.previous.digest == (before.digest if before else None)
        origin = history.get(body.origin)
        assert origin is not None
        assert origin.digest == body.digest
        if body.digest is not None:
            assert origin.kind in ("promotion", "adoption")
            assert origin.origin == origin.generation
        if body.kind == "fence" and before is not None:
            assert (body.digest, body.origin) == (before.digest, before.origin)
    live, effective = history.live, history.effective
    if effective is not None:
        assert live is not None
        assert (live.digest, live.origin) == (effective.digest, effective.origin)
        assert effective.origin not in history.withdrawn()


@given(moves)
def test_a_fence_changes_nothing(moves: list[tuple[str, str]]) -> None:
    story = Story()
    play(story, moves)
    before = story.history
    story.fence()
    after = story.history
    assert after.withdrawn() == before.withdrawn()
    assert after.effective == before.effective
    assert after.held_by(frozenset()) == before.held_by(frozenset())
    assert _target(after) == _target(before)


def _target(history: PointerHistory) -> Generation | None:
    try:
        return history.rollback_target(None)
    except NoRollbackTargetError:
        return None


@given(moves)
def test_pressing_it_until_it_refuses_only_goes_back_and_shows_nothing_twice(
    moves: list[tuple[str, str]],
) -> None:
    story = Story()
    play(story, moves)
    live = story.history.effective
    seen = [] if live is None else [live]
    for _ in range(len(story.bodies) + 1):
        withdrawn = story.history.withdrawn()
        target = _target(story.history)
        if target is None:
            break
        assert target.digest not in {g.digest for g in seen}
        assert target.origin < seen[-1].origin
        assert target.origin not in withdrawn
        story.back()
        seen.append(story.bodies[-1])
        assert story.history.withdrawn() > withdrawn
    else:
        raise AssertionError("it never refused")


# --- in a store ---


@pytest.fixture
def store(tmp_path: Path) -> FilesystemStore:
    return FilesystemStore(tmp_path / "objects")


def keep(pointers: Pointers, story: Story) -> None:
    for body in story.bodies[pointers.history(story.name).latest :]:
        pointers.create(body)


@pytest.mark.parametrize(
    "name",
    [
        "student",
        "checkpoints/stable/student_latest.pt",
        "/abs/ü b.pt",
        "a%2Fb",
        "a~b",
        ".tmp",
        "x.pt",
    ],
)
def test_what_was_created_is_read(store: FilesystemStore, name: str) -> None:
    story = Story(name).adopt("a").promote("b").back().fence()
    keep(Pointers(store), story)
    reader = Pointers(store)
    assert reader.history(name).generations == tuple(story.bodies)
    assert reader.names() == [name]
    story.promote("c")
    keep(Pointers(store), story)
    assert reader.history(name).live == story.bodies[4]
    reader.write_view(name)
    assert Pointers(store).names() == [name]
    assert Pointers(store).history(name).latest == 5


def test_keys_and_bytes_are_what_the_format_says(store: FilesystemStore) -> None:
    story = Story("a/b ~.pt").promote("a")
    pointers = Pointers(store)
    keep(pointers, story)
    pointers.write_view("a/b ~.pt")
    folder = "pointers/a%2Fb%20%7E.pt"
    assert [i.key for i in store.list("")] == [f"{folder}.json", f"{folder}/00000001.json"]
    raw = store.read(f"{folder}/00000001.json")
    assert raw == store.read(f"{folder}.json") == canonical_json(json.loads(raw))
    assert sorted(json.loads(raw)) == sorted(Generation.model_fields)


def test_one_pointer_is_not_another(store: FilesystemStore) -> None:
    keep(Pointers(store), Story("student").promote("a"))
    keep(Pointers(store), Story("student/b").promote("b"))
    keep(Pointers(store), Story("student2").promote("c"))
    pointers = Pointers(store)
    assert pointers.names() == ["student", "student/b", "student2"]
    assert [pointers.history(name).latest for name in pointers.names()] == [1, 1, 1]


def test_the_number_of_another_is_taken(store: FilesystemStore) -> None:
    keep(Pointers(store), Story().promote("a"))
    with pytest.raises(ObjectExistsError):
        Pointers(store).create(Story().promote("b").bodies[0])
    assert Pointers(store).history("student").live == Story().promote("a").bodies[0]


@pytest.mark.parametrize(
    "name", ["", "../x", "a\n", "-x", "x" * 256, "/" * 2, "ü" * 60, "student.json"]
)
def test_a_name_is_refused_before_anything_is_done(store: FilesystemStore, name: str) -> None:
    with pytest.raises(Exception) as caught:  # noqa: PT011 - ledger's and launcher's own
        Pointers(store).history(name)
    assert type(caught.value).__name__ in ("InvalidNameError", "UsageError")


def test_a_gap_is_an_error_and_a_stray_file_is_none(store: FilesystemStore) -> None:
    keep(Pointers(store), Story().promote("a").promote("b").promote("c"))
    folder = store.root / "pointers" / "student"
    (folder / ".DS_Store").write_bytes(b"x")
    (folder / "00000002.json~").write_bytes(b"x")
    assert Pointers(store).history("student").latest == 3
    (folder / "00000002.json").unlink()
    with pytest.raises(IntegrityError, match=r"00000002\.json is missing"):
        Pointers(store).history("student")


@pytest.mark.parametrize("raw", [b"", b"{}", b"[]", b"\xff", b'{"name":"student"}', b"null"])
def test_a_body_that_is_none_is_an_error(store: FilesystemStore, raw: bytes) -> None:
    store.create("pointers/student/00000001.json", raw)
    with pytest.raises(IntegrityError, match=r"00000001\.json"):
        Pointers(store).history("student")


def test_a_body_in_the_wrong_place_is_an_error(store: FilesystemStore) -> None:
    story = Story().promote("a").promote("b")
    for name, number, body in [("student", 1, 1), ("other", 1, 0)]:
        data = canonical_json(story.bodies[body].model_dump(mode="json"))
        store.create(f"pointers/{name}/{number:08d}.json", data)
        with pytest.raises(IntegrityError, match="says that it is student g"):
            Pointers(store).history(name)


class Deaf(FilesystemStore):
    """Does not answer the first creates; ``lands`` says whether they were done all the same."""

    def __init__(self, root: Path, *, silent: int, lands: bool) -> None:
        super().__init__(root)
        self.silent, self.lands = silent, lands

    def create(self, key: str, data: bytes) -> None:
        if self.silent == 0:
            return super().create(key, data)
        self.silent -= 1
        if self.lands:
            super().create(key, data)
        raise UnavailableError("no answer")


@pytest.mark.parametrize("lands", [True, False])
def test_no_answer_to_a_create_is_read_back_and_tried_again(tmp_path: Path, lands: bool) -> None:
    store = Deaf(tmp_path, silent=1, lands=lands)
    story = Story().promote("a")
    Pointers(store).create(story.bodies[0])
    assert Pointers(store).history("student").generations == tuple(story.bodies)


def test_no_answer_and_somebody_elses_number(tmp_path: Path) -> None:
    store = Deaf(tmp_path, silent=1, lands=False)
    keep(Pointers(FilesystemStore(tmp_path)), Story().promote("b"))
    with pytest.raises(ObjectExistsError):
        Pointers(store).create(Story().promote("a").bodies[0])


def test_no_answer_ever_is_an_error(tmp_path: Path) -> None:
    store = Deaf(tmp_path, silent=100, lands=False)
    with pytest.raises(UnavailableError):
        Pointers(store).create(Story().promote("a").bodies[0])
    assert store.silent > 90
