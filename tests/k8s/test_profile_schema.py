"""The published schema: what it was made from, and that an editor which has it marks what the launcher refuses."""

from __future__ import annotations

import copy
import json
from contextlib import suppress
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from k8s.errors import ProfileError
from k8s.yaml_text import parse_yaml, to_yaml
from scripts.profile_schema import DOCUMENT, document
from tests.k8s.golden import ROOT
from tests.k8s.profiles import LEAST, read
from tests.k8s.refusals import BEYOND, SEEN

PUBLISHED = json.loads(DOCUMENT.read_text())
SCHEMA = Draft202012Validator(PUBLISHED)
EVERY_KEY = ROOT / "tests" / "golden" / "profiles" / "everything.yaml"
PROFILES = [*sorted((ROOT / "configs" / "profiles").glob("*.yaml")), EVERY_KEY]
#: Keys that the profile that says everything leaves out: of two of which only one may be, and what gpu.yaml says.
LEFT_OUT = {
    "Stages": {"llm_on", "relabel", "llm_off"},
    "Affinity": {"nodeAffinity", "podAffinity"},
    "Service": {"url_path", "ready_path", "resources"},
    "Store": {"host_path"},
}
EVERYTHING = parse_yaml(EVERY_KEY.read_text()).value


def test_the_published_schema_is_the_codes() -> None:
    """Stale? ``python -m scripts.profile_schema`` writes it."""
    assert DOCUMENT.read_text() == document()
    Draft202012Validator.check_schema(PUBLISHED)


@pytest.mark.parametrize("path", PROFILES, ids=lambda path: path.stem)
def test_it_takes_every_profile_of_ours_however_yaml_is_read(path: Any) -> None:
    """As YAML 1.1 is read by many an editor, ``off`` is false and ``0.5`` a number."""
    text = path.read_text()
    SCHEMA.validate(parse_yaml(text).value)
    SCHEMA.validate(yaml.safe_load(text))


@pytest.mark.parametrize("text", SEEN, ids=[one.strip().split("\n")[-1] for one in SEEN])
def test_it_refuses_what_the_launcher_refuses(text: str) -> None:
    assert not SCHEMA.is_valid(parse_yaml(text).value)


@pytest.mark.parametrize("text", BEYOND, ids=[one.strip().split("\n")[-1] for one in BEYOND])
def test_what_only_the_launcher_sees_is_known(text: str) -> None:
    """Where this fails the schema has become sharper: move the case to SEEN."""
    assert SCHEMA.is_valid(parse_yaml(text).value)


def test_every_key_of_it_is_in_the_profile_that_says_everything() -> None:
    """So that what is tried with that profile is tried with every key."""
    written: dict[str, set[str]] = {}

    def walk(model: dict[str, Any], value: Any, name: str) -> None:
        written.setdefault(name, set()).update(value)
        for key, shape in model["properties"].items():
            if key not in value:
                continue
            found = json.dumps(shape)
            for definition in PUBLISHED["$defs"]:
                if f'"#/$defs/{definition}"' in found:
                    inner = value[key]
                    if isinstance(inner, dict) and shape.get("type") == "object":
                        inner = list(inner.values())
                    for one in inner if isinstance(inner, list) else [inner]:
                        walk(PUBLISHED["$defs"][definition], one, definition)

    walk(PUBLISHED, EVERYTHING, "Profile")
    assert written.keys() == {"Profile", *PUBLISHED["$defs"]}
    missing = {
        n: PUBLISHED["$defs"][n]["properties"].keys() - k
        for n, k in written.items()
        if n != "Profile"
    }
    assert {name: keys for name, keys in missing.items() if keys} == LEFT_OUT


_ODD = st.one_of(
    st.none(), st.booleans(), st.integers(-3, 3), st.integers(), st.text(max_size=6), st.just([]), st.just({}),
    st.sampled_from(["off", "1Gi", "0.5", "/x", "a/b", "A", "*", "nvidia.com/gpu"]),
    st.just([{"claim": "a", "mount_path": "/a"}]),
)  # fmt: skip


@st.composite
def changed(draw: st.DrawFn) -> Any:
    """The profile that says everything, with one thing in it changed, added or removed."""
    value = copy.deepcopy(EVERYTHING)
    place: Any = None
    key: Any = None
    here: Any = value
    while isinstance(here, dict | list) and here and (place is None or draw(st.integers(0, 5))):
        place = here
        key = draw(st.sampled_from(sorted(here) if isinstance(here, dict) else range(len(here))))
        here = place[key]
    assert place is not None
    match draw(st.sampled_from(["change", "remove", "add"])):
        case "remove":
            del place[key]
        case "add" if isinstance(place, dict):
            place[draw(st.sampled_from(["image", "env", "nonsense", "x"]))] = draw(_ODD)
        case _:
            place[key] = draw(_ODD)
    return value


@settings(deadline=None, max_examples=60)
@given(changed())
def test_it_refuses_nothing_that_the_launcher_takes(value: Any) -> None:
    """A profile either gets its problems named or is one for the schema too; nothing else comes of it."""
    text = to_yaml(value)
    with suppress(ProfileError):
        read(text)
        SCHEMA.validate(parse_yaml(text).value)


def test_the_least_profile_is_one() -> None:
    SCHEMA.validate(parse_yaml(LEAST).value)
