"""storage with store and ledger in a bucket, against what lies in the server's own folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from launcher.storage.opening import open_store
from launcher.storage.port import BlobInfo
from tests.cli.session import Session, make_session
from tests.rig.fault_proxy import proxied
from tests.rig.s3 import S3Server, s3_server

__all__ = ["s3_server"]
pytestmark = pytest.mark.folder  # has a bucket of its own
TARGET = "checkpoints/stable/s.pt"


class Team:
    """A project in a bucket after two promoted runs."""

    def __init__(self, server: S3Server, folder: Path) -> None:
        self.server, self.bucket = server, server.bucket()
        self.url = f"s3://{self.bucket}/team"
        self.session: Session = make_session(
            folder / "project",
            **server.environment(),
            LAUNCHER_STORE=self.url,
            XDG_CACHE_HOME=str(folder / "cache"),
        )
        for run_id in ("a", "b"):
            done = self.session.submit("--run-id", run_id, "--promotion-target", TARGET)
            assert done.code == 0, done

    def stored(self, prefix: str = "") -> int:
        top = self.server.root / self.bucket / "team"
        return sum(p.stat().st_size for p in (top / prefix).rglob("*") if p.is_file())

    def usage(self) -> Any:
        return self.session.json("storage")


@pytest.fixture(scope="module")
def team(s3_server: S3Server, tmp_path_factory: pytest.TempPathFactory) -> Team:
    return Team(s3_server, tmp_path_factory.mktemp("team"))


def store_of(team: Team) -> Any:
    return open_store(team.url)


@pytest.fixture
def environment(team: Team, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in team.session.env().items():
        monkeypatch.setenv(name, value)


def test_every_byte_of_the_bucket_is_in_one_class(team: Team) -> None:
    usage = team.usage()
    classes = usage["bytes_by_class"]
    local = classes["run folders"] + classes["backups"]
    probe = team.stored("probe")
    assert usage["stored_bytes"] == team.stored() - probe == sum(classes.values()) - local
    assert classes["ledger"] == team.stored("ledger") > 0
    assert classes["results"] == team.stored("runs") + team.stored("pointers")
    assert classes["students"] == 2 * len("a\n")
    assert (usage["free_bytes"], usage["quota_bytes"]) == (None, None)
    assert usage["unfinished_uploads"] == {"count": 0, "since": None}
    assert all(run["folder_bytes"] > run["stored_bytes"] > 0 for run in usage["runs"])
    [pointer] = usage["pointers"]
    assert (pointer["name"], pointer["generations"], pointer["kept_bytes"]) == (TARGET, 2, 4)


@pytest.mark.usefixtures("environment")
def test_the_trash_counts_until_it_is_emptied(team: Team) -> None:
    store = store_of(team)
    before = team.usage()
    blob: BlobInfo = store.ingest_bytes(b"x" * 1000)
    store.discard([blob], "2026-01-01")
    usage = team.usage()
    assert usage["bytes_by_class"]["trash"] == before["bytes_by_class"]["trash"] + 1000
    assert usage["stored_bytes"] == before["stored_bytes"] + 1000
    store.empty("2026-01-01", [blob.digest])
    assert team.usage()["bytes_by_class"] == before["bytes_by_class"]


@pytest.mark.usefixtures("environment")
def test_unfinished_uploads_are_said(team: Team) -> None:
    import boto3

    client = boto3.client("s3")
    key = f"team/blobs/sha256/00/{'0' * 64}"
    upload = client.create_multipart_upload(Bucket=team.bucket, Key=key)["UploadId"]
    try:
        found = team.usage()["unfinished_uploads"]
        assert found["count"] == 1
        assert found["since"].endswith("Z")
        assert "unfinished uploads: 1, the oldest begun" in team.session.look("storage").out
    finally:
        client.abort_multipart_upload(Bucket=team.bucket, Key=key, UploadId=upload)
    assert "unfinished" not in team.session.look("storage").out


def test_a_quota_is_shown_and_goes_into_the_alert(team: Team) -> None:
    stored = team.usage()["stored_bytes"]
    done = team.session.look("storage", LAUNCHER_QUOTA_BYTES="1 kB")
    assert done.code == 0
    assert (
        f"{'quota':<19}  {1000:>15,}     1.0 kB  {stored / 10:.0f} % used" in done.out.splitlines()
    )
    assert "over its quota" in done.err
    wide = team.session.look("storage", LAUNCHER_QUOTA_BYTES="2TiB")
    assert f"{2 * 1024**4:,}" in wide.out
    assert wide.err == ""
    assert team.session.look("storage", LAUNCHER_QUOTA_BYTES="lots").code == 2
    team.session.environment["LAUNCHER_QUOTA_BYTES"] = "5GB"
    try:
        done = team.session.submit("--run-id", "q", "--promotion-target", TARGET)
    finally:
        del team.session.environment["LAUNCHER_QUOTA_BYTES"]
    assert done.code == 0, done
    alert = (team.session.home / "q" / "metadata" / "storage_alert.txt").read_text()
    assert "Quota: 5000000000 bytes (5.0 GB)" in alert
    assert f"Store: {team.url}" in alert


def test_it_asks_a_bucket_little(team: Team, s3_server: S3Server) -> None:
    with proxied(s3_server) as proxy:
        more = s3_server.environment(proxy.endpoint)
        assert team.session.look("storage", **more).code == 0
    lists = [r for r in proxy.requests if "list-type" in r.query or "uploads" in r.query]
    assert 0 < len(lists) <= 15, [(r.method, r.key) for r in proxy.requests]
    assert all(r.method in ("GET", "HEAD") for r in proxy.requests)
