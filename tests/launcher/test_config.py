"""The config: what is written arrives, what is secret is kept nowhere. (What is refused: tests/cli/test_bad_input.)"""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from launcher import config
from launcher.errors import UsageError
from ledger.canonical import parse_json

RUNS = "RETRAIN_CMD=true\n"
SECRET = "hunter2-hunter2"
#: Line ends are made \n and no NUL is allowed; everything else may stand in a value.
TEXT = st.text(st.characters(exclude_characters="\x00\r", exclude_categories=["Cs"]))


def value_of(written: str) -> str:
    return config.parse(f"{RUNS}V={written}\nAFTER=1\n", "c.env").variables["V"]


def single(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def double(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


@given(TEXT, st.sampled_from([single, double]), st.sampled_from(["V=", "export V=", "V = "]))
def test_a_quoted_value_arrives_unchanged(text: str, quoted: object, before: str) -> None:
    assert callable(quoted)
    parsed = config.parse(f"{RUNS}{before}{quoted(text)}  # {text!a}\nAFTER=1\n", "c.env")
    assert parsed.variables["V"] == text
    assert (parsed.lines["V"], parsed.variables["AFTER"]) == (2, "1")
    assert parsed.lines["AFTER"] == 3 + text.count("\n")


@given(TEXT.filter(lambda t: not set(t) & set("'\\")))
def test_what_a_shell_would_quote_arrives_unchanged(text: str) -> None:
    quoted = shlex.quote(text)
    assert value_of(quoted) == text


@given(st.text(st.characters(codec="ascii", categories=["L", "N", "P", "S"]), min_size=1))
def test_an_unquoted_word_arrives_unchanged(text: str) -> None:
    if text[0] not in "'\"":
        assert value_of(text) == text


@pytest.mark.parametrize("quote", ["'", '"', ""])
@pytest.mark.parametrize(
    "text",
    ["${RUN_ID:-x}", "$(date) `date`", "a | b && c; d", "{RUN_ID} ${RUN_ID}", "a=b", "x#y", "%s \\d \\$HOME ~"],
)  # fmt: skip
def test_nothing_is_interpolated(text: str, quote: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUN_ID", "of the environment")
    assert value_of(f"{quote}{text}{quote}") == text


@pytest.mark.parametrize(
    ("written", "arrives"),
    [
        (r"'a\'b \\ \n \d'", r"a'b \ \n \d"),
        (r'"a\"b \\ \n \d \$X"', 'a"b \\ \n \\d \\$X'),
        (r"a\nb", r"a\nb"),
        ("a # comment", "a"),
        ("a#b", "a#b"),
        ("", ""),
        ("'  '", "  "),
        ("'a\nb'", "a\nb"),
    ],
)
def test_escapes_are_what_the_template_says(written: str, arrives: str) -> None:
    assert value_of(written) == arrives


def test_line_ends_and_marks_of_other_systems_change_nothing(tmp_path: Path) -> None:
    path = tmp_path / "c.env"
    path.write_bytes(b"\xef\xbb\xbfRETRAIN_CMD='a\r\nb'\r\n\r\nX=1\r\n")
    loaded = config.load(path)
    assert dict(loaded.variables) == {"RETRAIN_CMD": "a\nb", "X": "1"}
    assert loaded.lines == {"RETRAIN_CMD": 1, "X": 4}


def test_a_slip_whose_right_form_is_there_is_a_warning_and_a_used_variable_is_none() -> None:
    parsed = config.parse(f"{RUNS}RETRAIN_CMDS=x\n", "c.env")
    assert parsed.warnings == ("c.env:2: RETRAIN_CMDS looks like RETRAIN_CMD, which is set too",)
    for command in ("$INPUT", "${INPUT:-x}"):
        assert config.parse(f"RETRAIN_CMD='f {command}'\nINPUT=x\n", "c.env").warnings == ()
    with pytest.raises(UsageError, match="did you mean INPUTS"):
        config.parse("RETRAIN_CMD='f $INPUT_FILE'\nINPUT=x\n", "c.env")


def test_a_quote_left_open_that_swallows_a_key_is_a_warning() -> None:
    parsed = config.parse("RETRAIN_CMD='x\nLLM_OFF_CMD='\n", "c.env")
    assert parsed.variables == {"RETRAIN_CMD": "x\nLLM_OFF_CMD="}
    (warning,) = parsed.warnings
    assert warning.startswith(
        "c.env:1: the value of RETRAIN_CMD goes on past line 2, where LLM_OFF_CMD"
    )


def test_a_setting_of_the_launcher_in_a_config_is_a_warning() -> None:
    (warning,) = config.parse(f"{RUNS}LAUNCHER_HOME=x\n", "c.env").warnings
    assert "LAUNCHER_HOME reaches the stages only" in warning


def test_an_absent_or_empty_command_is_none() -> None:
    parsed = config.parse("LLM_ON_CMD=\nRETRAIN_CMD=x\n", "c.env")
    assert parsed.commands == {"llm_on": None, "relabel": None, "retrain": "x", "llm_off": None}


def test_the_keys_of_ours() -> None:
    parsed = config.parse(
        f"{RUNS}RETRAIN_TIMEOUT=1.5\nRETRAIN_RETRIES=2\nINFRASTRUCTURE_RETRIES=0\n"
        "INPUTS=\"a 'b c.txt'  d/*\"\nINPUTS_PRIVATE=\nCOLLECT_EXCLUDE='*.tmp\nframes/'\n",
        "c.env",
    )
    assert (parsed.timeouts["retrain"], parsed.timeouts["llm_on"]) == (1.5, None)
    assert (parsed.retries["retrain"], parsed.retries["llm_on"]) == (2, 0)
    assert (parsed.infrastructure_retries, config.parse(RUNS, "c").infrastructure_retries) == (0, 2)
    assert (parsed.inputs, parsed.inputs_private) == (("a", "b c.txt", "d/*"), ())
    assert parsed.collect_exclude == ("*.tmp", "frames/")


def test_overrides_win_and_are_checked_with_the_whole() -> None:
    parsed = config.parse(
        "RETRAIN_RETRIES=x\n", "c.env", {"RETRAIN_CMD": "y", "RETRAIN_RETRIES": "1"}
    )
    assert (parsed.commands["retrain"], parsed.retries["retrain"]) == ("y", 1)
    with pytest.raises(UsageError, match=r"^--set RETRAIN_RETRIES: "):
        config.parse(f"{RUNS}RETRAIN_RETRIES=1\n", "c.env").with_overrides({"RETRAIN_RETRIES": "x"})


# --- secrets -----------------------------------------------------------------------------------------

SECRETS = (
    f"RETRAIN_CMD='curl -H $PLANNER_API_KEY'\nPLANNER_API_KEY={SECRET}\nHF_TOKEN=short\nTOKENS=8\nKEYBOARD=us-layout\n"
    f"URL=https://ana:{SECRET}@host\nDATABASE_URL=postgres://x:yyyyyyyy\nSECRET_NAMES='DATABASE_URL, NOT_HERE'\n"
)


def test_secrets_are_named_listed_or_tainted() -> None:
    parsed = config.parse(SECRETS, "c.env")
    assert parsed.secret_names == {"PLANNER_API_KEY", "HF_TOKEN", "DATABASE_URL", "URL"}


def test_nothing_that_is_kept_or_shown_holds_a_secret() -> None:
    parsed = config.parse(SECRETS, "c.env")
    stored = parsed.stored_bytes()
    for value in (SECRET, "short", "yyyyyyyy"):
        assert value.encode() not in stored
        assert value not in repr(parsed)
    assert parse_json(stored)["secret_names"] == sorted(parsed.secret_names)


def test_a_stored_config_is_whole_again_with_its_secrets() -> None:
    parsed = config.parse(SECRETS, "c.env")
    stored = config.Config.from_stored(parsed.stored_bytes(), "c.env")
    assert stored.secret_names == parsed.secret_names
    assert stored.commands == parsed.commands
    values = {name: parsed.variables[name] for name in stored.secret_names}
    assert dict(stored.with_secrets(values).variables) == dict(parsed.variables)
    assert stored.with_secrets(values).stored_bytes() == parsed.stored_bytes()


def test_a_secret_of_the_environment_taints_and_is_refused_as_the_config_s_own() -> None:
    environment = {"OPENAI_API_KEY": SECRET, "MY_DSN": "postgres://pw", "HOME": "/home/ana-ana"}
    parsed = config.parse(
        f"RETRAIN_CMD='ls /home/ana-ana'\nURL=x:{SECRET}\nSECRET_NAMES=MY_DSN\nD=postgres://pw/1\n",
        "c",
    )
    known = parsed.knowing(environment)
    assert known.secret_names == {"URL", "D"}
    assert SECRET.encode() not in known.stored_bytes()
    assert SECRET not in repr(known)
    for command in (f"curl {SECRET}", "curl {OPENAI_API_KEY}"):
        with pytest.raises(
            UsageError, match="RETRAIN_CMD contains the secret OPENAI_API_KEY"
        ) as caught:
            config.parse(f"RETRAIN_CMD='{command}'\n", "c").knowing(environment)
        assert SECRET not in str(caught.value)
    config.parse("RETRAIN_CMD='curl $OPENAI_API_KEY ${OPENAI_API_KEY}'\n", "c").knowing(environment)


@given(st.text(st.characters(codec="ascii", exclude_characters="\x00\r'\\"), min_size=8))
def test_no_refusal_shows_a_secret(secret: str) -> None:
    command = single(f"run {secret} now")
    with pytest.raises(UsageError) as caught:
        config.parse(f"API_KEY={single(secret)}\nRETRAIN_CMD={command}\n", "c.env")
    hidden = "c.env:: RETRAIN_CMD contains the secret API_KEY (write $: commands are stored, are not) 0123456789"
    assert secret not in str(caught.value) or secret in hidden
