"""Settings: flags first, then LAUNCHER_*, then defaults. (What is refused: tests/cli/test_bad_input.)"""

from __future__ import annotations

from pathlib import Path

import pytest

from launcher.errors import UsageError
from launcher.settings import Settings

ROOT = Path("/srv/my project")


def settings(env: dict[str, str] | None = None, **overrides: str) -> Settings:
    return Settings.from_environment(env or {}, ROOT, overrides)


def test_the_defaults() -> None:
    found = settings()
    assert (found.home, found.store, found.project) == (
        Path("runs/self_distill"),
        None,
        "my project",
    )
    assert found.grace_seconds == 10.0
    user, at, host = found.actor.partition("@")
    assert user
    assert at
    assert host


def test_the_environment_over_the_defaults_and_flags_over_it() -> None:
    env = {
        "LAUNCHER_HOME": "h",
        "LAUNCHER_STORE": "s",
        "LAUNCHER_PROJECT": "grid world",
        "LAUNCHER_ACTOR": "cron nightly",
        "LAUNCHER_GRACE_SECONDS": "0",
    }
    assert settings(env) == Settings(Path("h"), f"{ROOT}/s", "grid world", "cron nightly", 0.0)
    assert settings(env, home="x").home == Path("x")
    assert settings({"LAUNCHER_STORE": "/big/store"}).store == "/big/store"


def test_empty_is_unset() -> None:
    names = ["HOME", "STORE", "PROJECT", "ACTOR", "GRACE_SECONDS"]
    assert settings({f"LAUNCHER_{name}": "" for name in names}) == settings()


def test_a_project_folder_without_a_name_has_one() -> None:
    assert Settings.from_environment({}, Path("/"), {}).project == "project"


@pytest.mark.parametrize("value", ["3601", "inf", "-0.1", "1,5", "nan", "x" * 9999])
def test_a_grace_that_is_none(value: str) -> None:
    with pytest.raises(UsageError, match="from 0 to 3600"):
        settings({"LAUNCHER_GRACE_SECONDS": value})


@pytest.mark.parametrize(
    "value", ["s3://key:pw-pw-pw@bucket", "://pw-pw-pw", "pw-pw-pw@x://y", "gs://pw-pw-pw@b"]
)
def test_a_store_that_is_none_is_refused_without_showing_it(value: str) -> None:
    with pytest.raises(
        UsageError, match=r"a folder, or s3://bucket/prefix|no credentials"
    ) as caught:
        settings({"LAUNCHER_STORE": value})
    assert "pw-pw-pw" not in str(caught.value)


def test_a_bucket_is_a_store_and_keeps_the_ledger_unless_told_otherwise() -> None:
    in_bucket = settings({"LAUNCHER_STORE": "s3://team/distill/"})
    assert (in_bucket.store, in_bucket.ledger) == ("s3://team/distill", "store")
    assert in_bucket.store_in(ROOT) == "s3://team/distill"
    assert (
        settings({"LAUNCHER_STORE": "s3://a-bucket", "LAUNCHER_LEDGER": "sqlite"}).ledger
        == "sqlite"
    )
    assert settings({"LAUNCHER_STORE": "/big/store"}).ledger == "sqlite"
    assert settings({"LAUNCHER_LEDGER": "store"}).ledger == "store"
    assert settings({"LAUNCHER_STORE": "/a"}, store="s3://team").store == "s3://team"


@pytest.mark.parametrize("value", ["postgres", "Store", " sqlite"])
def test_a_ledger_that_is_none(value: str) -> None:
    with pytest.raises(UsageError, match="neither sqlite nor store"):
        settings({"LAUNCHER_LEDGER": value})


@pytest.mark.parametrize(
    "value", ["s3://", "s3://A", "s3://bucket/a//b", "s3://bucket/#x", "s3://b/../c"]
)
def test_a_bucket_that_is_none(value: str) -> None:
    with pytest.raises(UsageError):
        settings({"LAUNCHER_STORE": value})


def test_where_home_and_store_are() -> None:
    assert settings().home_in(ROOT) == ROOT / "runs/self_distill"
    assert settings().store_in(ROOT) == f"{ROOT}/runs/self_distill/objects"
    assert settings({"LAUNCHER_HOME": "/h"}).store_in(ROOT) == "/h/objects"


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("", None),
        ("0", 0),
        ("500000000000", 500 * 10**9),
        ("500GB", 500 * 10**9),
        ("500 gb", 500 * 10**9),
        ("1.5T", 1_500_000_000_000),
        ("2TiB", 2 * 1024**4),
        ("64KiB", 65536),
        ("12B", 12),
    ],
)
def test_a_quota_is_a_size_as_people_write_it(tmp_path: Path, text: str, size: int | None) -> None:
    settings = Settings.from_environment({"LAUNCHER_QUOTA_BYTES": text}, tmp_path, {})
    assert settings.quota_bytes == size


@pytest.mark.parametrize("text", ["lots", "-1", "1e9", "5 XB", "GB", "1,000", "5GBB", "٣"])
def test_what_is_no_size_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(UsageError, match="LAUNCHER_QUOTA_BYTES"):
        Settings.from_environment({"LAUNCHER_QUOTA_BYTES": text}, tmp_path, {})
