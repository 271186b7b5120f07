"""A run as its user sees it: retries, exit codes, last words, and what reaches a stage and nothing else."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fault.runs import ONCE, RUN, SUBMIT, Runs, made_runs

STUDENT = 'echo weights >"$CHECKPOINT_DIR/s.pt"\n'
FLAKY = 'test "$ATTEMPT" -gt 2 || { echo "try $ATTEMPT" >&2; exit 7; }\n'


@pytest.fixture
def runs(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Runs]:
    """A project whose stages the test gives as its parameter."""
    stages, more = request.param
    with made_runs(tmp_path / "p", *stages, more=more) as made:
        yield made


def project(*stages: tuple[str, str], more: str = "") -> pytest.MarkDecorator:
    return pytest.mark.parametrize("runs", [(stages, more)], indirect=True, ids=["-"])


@project(("retrain", ONCE + FLAKY + STUDENT), more="RETRAIN_RETRIES=2\n")
def test_a_stages_own_failure_is_tried_again_as_often_as_it_says(runs: Runs) -> None:
    done = runs.submit()
    assert done.code == 0, done
    assert runs.trace() == ["retrain 1", "retrain 2", "retrain 3"]
    logs = {path.name: path.read_text() for path in (runs.run_dir / "logs").iterdir()}
    assert logs == {
        "03_retrain.log": "try 1\n",
        "03_retrain.2.log": "try 2\n",
        "03_retrain.3.log": "",
    }
    stage = runs.stages()["retrain"]
    assert (stage["status"], stage["attempt"]) == ("completed", 3)
    assert stage["log"].endswith("logs/03_retrain.3.log")
    assert runs.causes() == ["application", "application"]
    runs.check()


@project(
    ("llm_on", ONCE),
    ("retrain", ONCE + STUDENT + "for i in $(seq 30); do echo line $i; done; exit 7\n"),
    ("llm_off", ONCE),
    more="RETRAIN_RETRIES=1\n",
)
def test_a_stage_that_fails_for_good_ends_the_run(runs: Runs) -> None:
    done = runs.submit("--promotion-target", "student")
    assert done.code == 7, done
    assert runs.trace() == ["llm_on 1", "retrain 1", "retrain 2"]
    assert "line 30" in done.out
    assert "line 5\n" not in done.out
    last = done.err.strip().splitlines()[-1]
    assert last.endswith("stage=retrain cause=application exit_code=7"), last
    assert runs.types("pointer/student") == []
    assert runs.metadata()["student_checkpoint"] is None
    assert runs.stages()["llm_off"]["status"] == "pending"
    runs.check()


@pytest.mark.parametrize(
    ("runs", "code", "cause"),
    [
        ((((("retrain"), "kill -9 $$\n"),), ""), 137, "application"),
        ((((("retrain"), "kill -TERM $$\n"),), ""), 143, "application"),
        ((((("retrain"), "exit 130\n"),), ""), 130, "application"),
        ((((("retrain"), "sleep 1000\n"),), "RETRAIN_TIMEOUT=0.2\n"), 70, "timeout"),
        ((((("retrain"), "ln -s / $ARTIFACT_DIR/all\n"),), ""), 70, "outputs"),
    ],
    indirect=["runs"],
    ids=["KILL", "TERM", "its own 130", "timeout", "outputs"],
)
def test_the_exit_code_is_the_stages_own_or_70(runs: Runs, code: int, cause: str) -> None:
    done = runs.submit()
    assert done.code == code, done
    last = done.err.strip().splitlines()[-1]
    assert last.endswith(f"stage=retrain cause={cause} exit_code={code}"), last
    assert runs.metadata()["status"] == "failed"
    runs.check()


@project(
    ("llm_on", 'rm -rf "$ARTIFACT_DIR" "$METADATA_DIR" "$CHECKPOINT_DIR"\n'),
    ("retrain", 'touch "$ARTIFACT_DIR/a" "$METADATA_DIR/m"\n' + STUDENT),
)
def test_every_stage_finds_its_folders(runs: Runs) -> None:
    done = runs.submit()
    assert done.code == 0, done
    runs.check()


SECRET = "hunter2-hunter2-hunter2"


@project(
    ("retrain", 'test "${#API_TOKEN}" = 23\n' + STUDENT),
    more=f"API_TOKEN={SECRET}\nURL=https://x/?t={SECRET}\n",
)
def test_a_secret_reaches_the_stage_and_no_file_of_ours(runs: Runs) -> None:
    done = runs.submit("--promotion-target", "student")
    assert done.code == 0, done
    holding = {
        str(path.relative_to(runs.root))
        for path in runs.root.rglob("*")
        if path.is_file() and SECRET.encode() in path.read_bytes()
    }
    assert holding == {"c.env"}
    assert SECRET not in done.out + done.err


LOADERS = """
BASH_ENV={root}/bash_env
PYTHONPATH={root}/modules
PYTHONSTARTUP={root}/modules/sitecustomize.py
LD_PRELOAD={root}/nothing.so
"""


def test_loader_variables_reach_the_stage_and_never_the_launcher_or_supervisor(
    tmp_path: Path,
) -> None:
    root = tmp_path / "p"
    show = 'python3 -c "pass"; echo "$LD_PRELOAD" >"$ARTIFACT_DIR/preload"\n'
    with made_runs(
        root, ("llm_on", show), ("retrain", STUDENT), more=LOADERS.replace("{root}", str(root))
    ) as runs:
        (root / "modules").mkdir()
        mark = f"open({str(root / 'loaded')!r}, 'a').write(str(__import__('sys').argv) + '\\n')\n"
        (root / "modules" / "sitecustomize.py").write_text(mark)
        (root / "bash_env").write_text(f'echo "bash $STAGE" >>"{root}/loaded"\n')
        done = runs.submit()
        assert done.code == 0, done
        assert (runs.run_dir / "artifacts/preload").read_text() == f"{root}/nothing.so\n"
        loaded = (root / "loaded").read_text().splitlines()
        assert sorted(set(loaded)) == ["['-c']", "bash llm_on", "bash retrain"]
        assert re.search(r"nothing\.so", (runs.run_dir / "logs/01_llm_on.log").read_text())
        for log in (runs.home / "locks").glob("*.supervisor.log"):
            raise AssertionError(log.read_text())


@project(("retrain", ONCE))
def test_an_attempt_leaves_its_lock_and_nothing_else(runs: Runs) -> None:
    assert runs.submit().code == 0
    ours = {path.name for path in (runs.home / "locks").glob(f"{RUN}.retrain*")}
    assert ours == {f"{RUN}.retrain.1.lock"}
    assert not runs.members("retrain")


@project(("retrain", ONCE + 'test "$ATTEMPT" = 2 || kill -9 $PPID $$\n' + STUDENT))
def test_what_was_taken_for_gone_and_runs_after_all_is_looked_at_again(runs: Runs) -> None:
    """As a pod that a Job made in between, or a lock that somebody held for a moment longer."""
    late = (
        "from launcher.cli.main import main\n"
        "from launcher.executors.local import LocalExecutor\n"
        "from launcher.executors.port import StillRunningError\n"
        "real, tried = LocalExecutor.close_lost, []\n"
        "def close_lost(*given):\n"
        "    tried.append(given)\n"
        "    if len(tried) == 1:\n"
        "        raise StillRunningError('it is still running')\n"
        "    real(*given)\n"
        "LocalExecutor.close_lost = close_lost\n"
        f"main({[*SUBMIT]!r})\n"
    )
    done = runs.end(runs.start(command=(sys.executable, "-c", late)))
    assert done.code == 0, done
    assert runs.trace() == ["retrain 1", "retrain 2"]
    assert runs.causes() == ["lost"]
    runs.check()
