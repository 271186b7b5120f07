"""doctor on a bucket: what was tried of the server, and one line, with the setting that helps, for each trouble."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from launcher.doctor_bucket import judged
from launcher.storage.s3.probe import ProbeReport
from tests.cli.session import Session, make_session
from tests.rig.fault_proxy import proxied, without_conditions
from tests.rig.s3 import ACCESS_KEY, SECRET_KEY, S3Server, s3_server

__all__ = ["s3_server"]

pytestmark = pytest.mark.folder  # has buckets of its own
GOOD = ProbeReport(
    server="Server/1",
    create_only=True,
    winners=1,
    list_after_write=True,
    read_after_write=True,
    checksums=True,
    skew_seconds=0.0,
)


@pytest.fixture
def session(s3_server: S3Server, tmp_path: Path) -> Iterator[Session]:
    session = make_session(tmp_path / "p", **s3_server.environment())
    session.environment["LAUNCHER_STORE"] = f"s3://{s3_server.bucket()}/team"
    session.environment["XDG_CACHE_HOME"] = str(tmp_path / "cache")
    yield session
    assert not (session.root / "s3:").exists()


def findings(
    session: Session, *options: str, code: int = 0, **env: str
) -> dict[str, dict[str, str]]:
    done = session.look("doctor", "--json", *options, **env)
    assert done.code == code, done
    for secret in (ACCESS_KEY, SECRET_KEY):
        assert secret not in done.out + done.err
    said = json.loads(done.out)
    assert said["ok"] == (code == 0)
    assert not [f for f in said["findings"] if "\n" in f["what"] + f["do"]]
    return {f["name"]: f for f in said["findings"]}


def test_a_good_bucket_is_tried_and_left_as_it_was(session: Session, s3_server: S3Server) -> None:
    bucket = session.environment["LAUNCHER_STORE"].split("/")[2]
    found = findings(session)
    for name in ("store", "server", "create-only", "consistency", "checksums", "clock", "ledger"):
        assert found[name]["state"] == "ok", found[name]
    assert "VERSITYGW" in found["server"]["what"]
    assert session.environment["LAUNCHER_STORE"] in found["store"]["what"]
    assert not [p for p in (s3_server.root / bucket).rglob("*") if p.is_file()]
    assert "create-only" not in findings(session, "--no-probe")


@pytest.mark.parametrize(
    ("env", "code", "said", "do"),
    [
        ({"LAUNCHER_STORE": "s3://no-such-bucket-here/x"}, 2, "does not exist", "AWS_ENDPOINT_URL"),
        ({"AWS_SECRET_ACCESS_KEY": "wrong"}, 2, "403", "secret key is wrong"),
        ({"AWS_ACCESS_KEY_ID": "nobody"}, 2, "XAdminUserNotFound", "AWS_PROFILE"),
        ({"AWS_ENDPOINT_URL": "http://127.0.0.1:9"}, 5, "no connection", "AWS_ENDPOINT_URL"),
    ],
    ids=["bucket", "secret", "key", "endpoint"],
)
def test_a_bucket_that_cannot_be_used_is_said_once(
    session: Session, env: dict[str, str], code: int, said: str, do: str
) -> None:
    found = findings(session, code=code, **env)
    assert said in found["store"]["what"]
    assert do in found["store"]["do"]
    assert [name for name, f in found.items() if f["state"] == "failed"] == ["store"]


def test_a_server_that_ignores_conditions_is_named(session: Session, s3_server: S3Server) -> None:
    with proxied(s3_server) as proxy:
        proxy.rule(without_conditions, method="PUT", times=10_000)
        found = findings(session, code=2, AWS_ENDPOINT_URL=proxy.endpoint)
    assert found["create-only"]["state"] == "failed"
    assert "overwrites what is there" in found["create-only"]["what"]
    assert "If-None-Match" in found["create-only"]["do"]


@pytest.mark.parametrize(
    ("change", "name", "state"),
    [
        ({"winners": 2}, "create-only", "failed"),
        ({"read_after_write": False}, "consistency", "failed"),
        ({"list_after_write": False}, "consistency", "failed"),
        ({"checksums": False}, "checksums", "warning"),
        ({"skew_seconds": -3600.0}, "clock", "warning"),
        ({"skew_seconds": None}, "clock", "warning"),
    ],
    ids=str,
)
def test_each_thing_that_is_missing(change: dict[str, object], name: str, state: str) -> None:
    assert {f.state for f in judged(GOOD)} == {"ok"}
    odd = [f for f in judged(replace(GOOD, **change)) if f.state != "ok"]  # type: ignore[arg-type]
    assert [(f.name, f.state) for f in odd] == [(name, state)]
