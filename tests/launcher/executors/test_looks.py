"""When a launcher that waits asks the store: soon at first, ever more seldom, and at once when something is heard."""

from __future__ import annotations

import itertools

from launcher.executors.looks import Looks


def looked(looks: Looks, what: str, moments: range, heard: int = 0) -> list[int]:
    return [now for now in moments if looks.due(what, float(now), heard)]


def test_a_wait_of_an_hour_is_not_looked_at_every_few_seconds() -> None:
    found = looked(Looks(5.0), "retrain", range(1000, 4600))
    assert found[:4] == [1000, 1005, 1010, 1015]
    pauses = [after - before for before, after in itertools.pairwise(found)]
    assert pauses == sorted(pauses)
    assert (pauses[0], pauses[-1]) == (5, 60)
    assert all(
        pause <= max(5, (now - 1000) / 20 + 1) for now, pause in zip(found[1:], pauses, strict=True)
    )
    assert len(found) < 120  # 720 at every five seconds


def test_what_is_heard_is_looked_at_at_once() -> None:
    looks = Looks(5.0)
    assert looked(looks, "retrain", range(600))[-1] > 500
    assert not looks.due("retrain", 600.0, 0)
    assert looks.due("retrain", 600.1, 1)
    assert not looks.due("retrain", 600.2, 1)
    assert looks.due("retrain", 600.3, 2)


def test_each_wait_is_its_own() -> None:
    looks = Looks(5.0)
    looked(looks, "retrain", range(600))
    assert looked(looks, "llm_off", range(600, 612)) == [600, 605, 610]


def test_a_folder_is_looked_at_each_time() -> None:
    assert looked(Looks(0.0), "retrain", range(50)) == [*range(50)]
