"""YAML as profiles are written in it, and Jobs: what is read says the same to every reader, what is written too."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from k8s.yaml_text import YamlError, dotted, parse_yaml, to_yaml

_KEY = st.text(min_size=1, max_size=8)
_TRAPS = [
    "no", "off", "Y", "1e3", "010", "0x1F", "1_000", "~", "", "=", "<<", "12:30", "-", ".inf", "!x", "&a", "*a", "a: b",
    "a #b", "a\nb", "a\n\n", " a\n b", "\ta", "null", "1.10", "2026-01-01",
]  # fmt: skip
_SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(10**16), 10**16),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=20),
    st.sampled_from(_TRAPS),
)
_DOCUMENTS = st.dictionaries(
    _KEY,
    st.recursive(
        _SCALARS,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_KEY, inner, max_size=3),
        max_leaves=8,
    ),
    min_size=1,
    max_size=4,
)


@settings(deadline=None)
@given(_DOCUMENTS)
def test_what_is_written_is_read_again_by_us_and_by_others(document: dict[str, Any]) -> None:
    """The other is PyYAML, a reader of YAML 1.1, where many a plain word is a number, a date or a truth value."""
    text = to_yaml(document)
    assert parse_yaml(text).value == document
    assert yaml.safe_load(text) == document


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("no", "no"), ("off", "off"), ("Yes", "Yes"), ("y", "y"), ("True", "True"), ("true", True), ("false", False),
        ("1e3", "1e3"), ("010", "010"), ("0o10", "0o10"), ("0x1F", "0x1F"), ("1_000", "1_000"), ("12:30", "12:30"),
        ("0.5", "0.5"), (".inf", ".inf"), ("-0", "-0"), ("+1", "+1"), ("-7", -7), ("0", 0), ("42", 42),
        ("2026-01-01", "2026-01-01"), ("~", None), ("null", None), ("", None), ("Null", "Null"),
        ("'7'", "7"), ('"null"', "null"), ('"a\\tb"', "a\tb"), ("1" * 19, "1" * 19),
    ],
)  # fmt: skip
def test_a_plain_word_is_what_it_looks_like(text: str, value: Any) -> None:
    found = parse_yaml(f"a: {text}\n").value["a"]
    assert found == value
    assert type(found) is type(value)


def test_every_place_has_its_line() -> None:
    text = "# first\na:\n  b: 1\n  c:\n    - x\n    - d: 2\n\ne: {f: 3,\n  g: 4}\n"
    lines = parse_yaml(text).lines
    assert {dotted(path): line for path, line in lines.items() if path} == {
        "a": 2, "a.b": 3, "a.c": 4, "a.c[0]": 5, "a.c[1]": 6, "a.c[1].d": 6, "e": 8, "e.f": 8, "e.g": 9,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: 1\nb: 2\na: 3\n", "a: it is there twice, first on line 1 (line 3)"),
        ("x:\n  a: 1\n  'a': 3\n", "x.a: it is there twice, first on line 2 (line 3)"),
        ("a: {b: 1, b: 1}", "a.b: it is there twice, first on line 1 (line 1)"),
        ("a:\n  b: &x 1\n", "anchors and aliases (& and *) are not taken: say it in defaults, or twice (line 2)"),
        ("a: 1\nb: *a\n", "anchors and aliases (& and *) are not taken: say it in defaults, or twice (line 2)"),
        ("a: !!python/object:os.system x", "tags (tag:yaml.org,2002:python/object:os.system) are not taken (line 1)"),
        ("a: !!str 1", "tags (tag:yaml.org,2002:str) are not taken (line 1)"),
        ("a: 1\n---\nb: 1\n", "no YAML: but found another document (line 2)"),
        ("a: 1\n\tb: 2\n", "no YAML: found character '\\t' that cannot start any token (line 2)"),
        ("a: 'x\n", "no YAML: found unexpected end of stream (line 2)"),
        ("a: b: c\n", "no YAML: mapping values are not allowed here (line 1)"),
        ("? [a]\n: 1\n", "a key must be text (line 1)"),
        ("a: " + "[" * 41 + "]" * 41, "it nests too deeply (line 1)"),
        ("[" * 100_000, "it nests too deeply (line 1)"),
        ("a:\n" + "".join(f"{' ' * n}- \n" for n in range(1, 60)), "it nests too deeply (line 41)"),
        ("a: \x00", "no YAML: unacceptable character #x0000: special characters are not allowed"),
    ],
    ids=lambda text: text[:20],
)  # fmt: skip
def test_what_is_refused_says_where(text: str, said: str) -> None:
    with pytest.raises(YamlError) as refused:
        parse_yaml(text)
    assert str(refused.value) == said


def test_a_merge_key_is_a_key_like_any_other() -> None:
    """``<<`` pulls in what an anchor named, and there are none: it becomes an unknown key."""
    assert parse_yaml("<<: {a: 1}\n").value == {"<<": {"a": 1}}


def test_a_path_is_shown_as_it_is_written() -> None:
    path = ("stages", "retrain", "volumes", 0, "claim")
    assert dotted(path) == "stages.retrain.volumes[0].claim"
    assert dotted(("a", "b c")) == "a.'b c'"
    assert dotted(("a\n",)) == r"'a\n'"
    assert dotted(("x" * 500,)) == repr("x" * 80)
