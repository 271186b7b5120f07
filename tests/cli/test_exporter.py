"""The exporter as Prometheus and a kubelet ask it."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from launcher.exporter.audits import Audited, Audits
from launcher.exporter.families import audit_families
from launcher.exporter.server import LedgerCollector
from ledger.stores.memory import MemoryEventStore
from tests.cli.session import Session, make_session, until

FINDING = re.compile(r'^distill_ledger_audit_findings\{check="(\w+)"\} (\S+)$', re.MULTILINE)


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


def value_of(page: str, name: str) -> str:
    """The one sample of a metric without labels."""
    (found,) = re.findall(rf"^distill_ledger_{name} (\S+)$", page, re.MULTILINE)
    return str(found)


def audited(url: str, *, findings: int) -> str:
    """The page, once an audit has ended that found so many."""
    pages = [""]

    def ended() -> bool:
        pages.append(get(f"{url}/metrics")[1])
        found = FINDING.findall(pages[-1])
        return bool(found) and sum(float(number) for _, number in found) == findings

    until(ended, f"an audit that finds {findings}: {pages[-1][-2000:]}")
    return pages[-1]


def test_audits_run_beside_the_pages_and_say_what_they_find(tmp_path: Path) -> None:
    session = make_session(tmp_path / "project")
    assert session.submit("--run-id", "a", "--promotion-target", "student").code == 0
    document = session.home / "a" / "metadata.json"
    kept = document.read_bytes()
    with exporter(session, "--audit-every", "0.0001") as (url, process):
        page = audited(url, findings=0)
        assert "distill_ledger_audit_up 1.0" in page
        assert {check for check, _ in FINDING.findall(page)} == {
            one["name"] for one in session.json("audit")["checks"]
        }
        document.write_bytes(kept.replace(b"a", b"b", 1))
        page = audited(url, findings=1)
        assert 'distill_ledger_audit_findings{check="documents"} 1.0' in page
        assert time.time() - 60 < float(value_of(page, "audit_timestamp_seconds")) < time.time()
        assert 0 < float(value_of(page, "audit_duration_seconds")) < 60
        document.write_bytes(kept)
        audited(url, findings=0)
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0


@pytest.mark.folder
def test_an_audit_of_a_damaged_blob_names_its_check(tmp_path: Path) -> None:
    session = make_session(tmp_path / "project")
    assert session.submit("--promotion-target", "student").code == 0
    digest = session.json("pointers", "student")["live"]["digest"].removeprefix("sha256:")
    blob = session.home / "objects" / "blobs" / "sha256" / digest[:2] / digest
    blob.chmod(0o644)
    blob.write_bytes(blob.read_bytes().swapcase())
    for flags, wrong in (((), True), (("--audit-quick",), False)):
        with exporter(session, "--audit-every", "24", *flags) as (url, _):
            until(lambda url=url: "audit_findings{" in get(f"{url}/metrics")[1], "an audit")
            found = dict(FINDING.findall(get(f"{url}/metrics")[1]))
            assert (float(found["blobs"]) > 0) is wrong, found


def test_a_page_does_not_wait_for_an_audit_nor_does_the_end(
    session: Session, tmp_path: Path
) -> None:
    """A process that only sleeps is an audit that takes long."""
    program = tmp_path / "python"
    begun = tmp_path / "begun"
    program.write_text(f'#!/bin/sh\necho $$ > "{begun}"\nexec sleep 600\n')
    program.chmod(0o755)
    audits = Audits(3600, ())
    audits._command = (str(program),)
    audits.start()
    until(lambda: begun.exists() and bool(begun.read_text()), "an audit that runs")
    names = {family.name for family in LedgerCollector(MemoryEventStore(), audits).collect()}
    assert "distill_ledger_audit_findings" in names
    audits.end()
    with pytest.raises(ProcessLookupError):
        os.kill(int(begun.read_text()), 0)


def test_audits_that_cannot_be_made_are_said_and_what_was_found_stays(tmp_path: Path) -> None:
    audits = Audits(0.01, ("--no-such-flag",))
    assert audits.error is None
    audits.last = Audited({"bytes": 0}, 1.0, 1.0)
    audits.start()
    until(lambda: audits.error is not None, "a try")
    audits.end()
    assert "--no-such-flag" in (audits.error or "")
    found = {f.name: f.samples for f in audit_families(audits)}
    assert [one.value for one in found["distill_ledger_audit_up"]] == [0.0]
    assert [one.value for one in found["distill_ledger_audit_findings"]] == [0.0]


def test_how_an_audit_is_made_without_how_often_is_refused(session: Session) -> None:
    done = session.launcher("exporter", "--audit-quick")
    assert (done.code, "--audit-every" in done.err) == (2, True)
