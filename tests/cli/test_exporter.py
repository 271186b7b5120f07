"""The exporter as Prometheus and a kubelet ask it."""

from __future__ import annotations

import signal
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.cli.session import Session, make_session


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Session:
    made = make_session(tmp_path_factory.mktemp("exporter") / "project")
    assert made.submit("--promotion-target", "student").code == 0
    return made


@contextmanager
def exporter(session: Session, *more: str) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    process = session.start("exporter", "--listen", "127.0.0.1:0", *more)
    assert process.stdout is not None
    line = process.stdout.readline().decode()
    try:
        yield line.rpartition(" at ")[2].strip().removesuffix("/metrics"), process
    finally:
        process.kill()
        process.communicate()


def get(url: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(url, timeout=30) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as exc:
        with exc:
            return exc.code, exc.read().decode()


def test_it_says_what_the_ledger_says_and_what_was_added_since(session: Session) -> None:
    with exporter(session) as (url, process):
        status, text = get(f"{url}/metrics")
        assert status == 200
        assert 'distill_ledger_runs_total{pipeline="",status="succeeded"} 1.0' in text
        assert 'distill_ledger_pointer_generation{pointer="student"} 1.0' in text
        assert "distill_ledger_up 1.0" in text
        assert session.submit("--set", "RETRAIN_EXTRA=exit 7").code == 7
        _, text = get(f"{url}/metrics")
        assert 'distill_ledger_runs_total{pipeline="",status="failed"} 1.0' in text
        outcome = 'outcome="application",stage="retrain"'
        assert f"distill_ledger_stage_attempts_total{{{outcome}}} 1.0" in text
        assert get(f"{url}/healthz") == (200, "ok\n")
        assert get(f"{url}/readyz") == (200, "ok\n")
        assert get(f"{url}/else")[0] == 404
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0


@pytest.mark.folder
def test_a_ledger_that_cannot_be_read_is_said_and_no_counter_falls(session: Session) -> None:
    ledger = session.home / "ledger.db"
    kept = ledger.read_bytes()
    with exporter(session) as (url, _):
        _, before = get(f"{url}/metrics")
        try:
            ledger.write_bytes(b"no database at all, for as long as this lasts" * 100)
            _, text = get(f"{url}/metrics")
            assert "distill_ledger_up 0.0" in text
            runs = [line for line in before.splitlines() if "ledger_runs_total{" in line]
            assert all(line in text for line in runs)
            status, said = get(f"{url}/readyz")
            assert (status, "ledger" in said) == (503, True)
            assert get(f"{url}/healthz")[0] == 200
        finally:
            ledger.write_bytes(kept)


def test_a_port_that_is_taken_or_no_port_is_one_line(session: Session) -> None:
    with exporter(session) as (url, _):
        taken = session.launcher("exporter", "--listen", url.removeprefix("http://"))
    assert (taken.code, "cannot listen on 127.0.0.1" in taken.err) == (5, True)
    done = session.launcher("exporter", "--listen", "9464")
    assert (done.code, "is no HOST:PORT" in done.err) == (2, True)
