"""Settings: flags first, then LAUNCHER_*, then defaults. (What is refused: tests/cli/test_bad_input.)"""

from __future__ import annotations

from pathlib import Path

import pytest

from launcher.errors import UsageError
from launcher.settings import Settings

ROOT = Path("/work/my project")


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


@pytest.mark.parametrize("value", ["s3://key:pw-pw-pw@bucket", "://pw-pw-pw", "pw-pw-pw@x://y"])
def test_a_store_that_is_no_folder_is_refused_without_showing_it(value: str) -> None:
    with pytest.raises(UsageError, match="only a folder is supported") as caught:
        settings({"LAUNCHER_STORE": value})
    assert "pw-pw-pw" not in str(caught.value)
