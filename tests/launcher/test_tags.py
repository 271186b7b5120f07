"""Tag files are judged by the bytes that the stage left, in bounded memory, and the verdict is said once."""

from __future__ import annotations

import io
import itertools
import json
import socket
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from importlib import resources
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from launcher.errors import ConflictError, IntegrityError, UsageError
from launcher.planlets import check as check_module
from launcher.planlets.check import KEPT_PROBLEMS, PROBLEMS_EACH, check
from launcher.planlets.pieces import LIMIT_BYTES, form_of, pieces
from launcher.planlets.schema import SHIPPED, Schema, load_schema, shipped_bytes
from launcher.planlets.strict import MAX_DEPTH
from launcher.storage.port import blob_key
from launcher.tags import validate
from ledger import events as e
from tests.launcher.small_runs import open_project, relabelled, requested, say, tag_events

GOOD: dict[str, Any] = {
    "planlet_id": "p1",
    "kind": "BATTLE",
    "seed_frame_id": 41,
    "format": "gen9ou",
    "side": "p1",
    "goal": "take the lead",
    "script": [{"op": "MOVE", "move": "surf", "target": {"slot": 2}, "fallback": {"op": "SWITCH"}}],
}
V01 = load_schema("planlet-v0.1", Path())


def lines(*planlets: object) -> bytes:
    return b"".join(json.dumps(p).encode() + b"\n" for p in planlets)


def problems(raw: bytes, schema: Schema | None = None) -> list[tuple[int | None, int | None, str]]:
    return [(p.line, p.index, p.message) for p in check(io.BytesIO(raw), schema).problems]


def schema_file(folder: Path, value: object) -> str:
    (folder / "schema.json").write_text(json.dumps(value))
    return "schema.json"


# --- the file -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("raw", "planlets"),
    [
        (b'{"planlet_id":"a"}\n{"planlet_id":"b"}\n', 2),
        (b'{"planlet_id":"a"}\r\n\r\n \t\n{"planlet_id":"b"}', 2),
        (b'{"planlet_id":"a\xe2\x80\xa8b"}\n', 1),
        (b'[{"planlet_id":"a"},{"planlet_id":"b"}]', 2),
        (b'\n [\n{"planlet_id": "a, ] }\\" {"},\n{"planlet_id":"\\\\"}\n]\n\n', 2),
        (b'{"planlet_id":"a","x":[0.5,1e300,-2,null,true,""]}', 1),
    ],
)
def test_both_forms_are_accepted(raw: bytes, planlets: int) -> None:
    checked = check(io.BytesIO(raw))
    assert checked.problems == []
    assert checked.counts() == {
        "planlets": planlets,
        "valid": planlets,
        "errors": 0,
        "duplicates": 0,
    }


OK = b'{"planlet_id":"ok"}'


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (b"", [(1, None, "there is no planlet in it")]),
        (b"\n \n", [(1, None, "there is no planlet in it")]),
        (b" [ ]\n", [(1, None, "there is no planlet in it")]),
        (OK + b'\n{"planlet_id":"b"', [(2, None, "it is no JSON: Expecting ',' delimiter")]),
        (OK + b"\n\n{}\n", [(3, None, "it has no planlet_id")]),
        (b'{"planlet_id":7}\n' + OK, [(1, None, "its planlet_id is a number, not text")]),
        (b'{"planlet_id":""}\n' + OK, [(1, None, "its planlet_id is empty")]),
        (b'{"planlet_id":"\\ud800"}\n' + OK, [(1, None, "its planlet_id is no Unicode text")]),
        (b'"x"\n' + OK, [(1, None, "a planlet is an object, not text")]),
        (OK + b"\n" + OK, [(2, None, "planlet_id 'ok' is that of line 1 too")]),
        (OK + b'\n{"planlet_id":"\xff"}\n', [(2, None, "it is not UTF-8 (at byte 16 of it)")]),
        (b"\xef\xbb\xbf" + OK, [(1, None, "it begins with a byte order mark")]),
        (b'{"planlet_id":"a","x":NaN}', [(1, None, "NaN is no JSON")]),
        (b'{"planlet_id":"a","x":-Infinity}', [(1, None, "-Infinity is no JSON")]),
        (b'{"planlet_id":"a","x":1e999}', [(1, None, "the number 1e999 is too large")]),
        (
            b'{"planlet_id":"a","x":' + b"7" * 5000 + b"}",
            [(1, None, "it has a number of too many")],
        ),
        (b'{"planlet_id":"a","planlet_id":"b"}', [(1, None, "the key 'planlet_id' is in one")]),
        (b"[" + OK + b",\n nope,\n {}]", [(2, 1, "it is no JSON"), (3, 2, "it has no planlet_id")]),
        (b"[" + OK + b",\n\n" + OK + b"]", [(3, 1, "planlet_id 'ok' is that of [0] too")]),
        (b'[\n{"planlet_id":"a",\n"x":\n,\n}]', [(4, 0, "it is no JSON: Expecting value")]),
        (b"[" + OK + b",]", [(1, None, "there is nothing after the last comma")]),
        (b"[" + OK + b',,{"planlet_id":"b"}]', [(1, 1, "there is nothing between two commas")]),
        (b"[" + OK + b"]\n\n" + OK, [(3, None, "more follows the end of the array")]),
        (b"[" + OK + b',\n{"planlet_id":"b', [(2, 1, "the file ends inside it")]),
        (b"[" + OK + b",\n", [(2, None, "the array does not end: ']' is missing")]),
        (b"[" + OK + b"}", [(1, None, "the array is closed by '}'")]),
        (b'[{"planlet_id":"a"]}]', [(1, 0, "it is no JSON"), (1, None, "the array is")]),
    ],
)
def test_what_is_wrong_is_said_with_its_place(
    raw: bytes, expected: list[tuple[int, int | None, str]]
) -> None:
    found = problems(raw)
    assert [(line, index) for line, index, _ in found] == [p[:2] for p in expected]
    for (_, _, message), (_, _, begins) in zip(found, expected, strict=True):
        assert message.startswith(begins)


class Trickle(io.BytesIO):
    """A file that gives little at a time, so that every cut falls somewhere."""

    def read(self, size: int | None = -1) -> bytes:
        return super().read(min(size or 0, 5) if size and size > 0 else size)


_TEXT = st.text(st.sampled_from('ab"\\[]{},:\n\x1fé\U0001f680 '), max_size=8)
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | _TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_TEXT, inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=150, deadline=None)
@given(st.lists(_JSON, min_size=1, max_size=5), st.sampled_from([None, 0, 2]), st.booleans())
def test_cutting_loses_nothing_wherever_a_read_ends(
    values: list[Any], indent: int | None, ascii_only: bool
) -> None:
    array = json.dumps(values, indent=indent, ensure_ascii=ascii_only)
    file = Trickle(array.encode())
    assert form_of(file) == "array"
    found = list(pieces(file, "array"))
    assert [json.loads(p.raw or b"!") for p in found] == values
    assert [p.index for p in found] == list(range(len(values)))
    text = array.split("\n")
    for piece in found:
        assert (piece.raw or b"!").decode().split("\n")[0] in text[piece.line - 1]


@pytest.mark.parametrize("form", ["lines", "array"])
def test_a_line_of_100_megabytes_is_passed_over_in_little_memory(tmp_path: Path, form: str) -> None:
    path = tmp_path / "tags"
    opening, between, closing = (b"", b"\n", b"\n") if form == "lines" else (b"[", b",\n", b"]")
    with path.open("wb") as file:
        file.write(opening + b'{"planlet_id":"')
        for _ in range(100):
            file.write(b"x" * 1_000_000)
        file.write(b'"}' + between + b'{"planlet_id":"b"}' + closing)
    with path.open("rb") as file:
        tracemalloc.start()
        try:
            checked = check(file)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    index = None if form == "lines" else 0
    assert [(p.line, p.index, p.message) for p in checked.problems] == [
        (1, index, "it is longer than 4 MiB")
    ]
    assert checked.counts()["valid"] == 1
    assert peak < 4 * LIMIT_BYTES


def test_a_planlet_of_exactly_the_limit_is_read() -> None:
    room = LIMIT_BYTES - len(b'{"planlet_id":""}')
    for extra, message in ((0, None), (1, "it is longer than 4 MiB")):
        planlet = b'{"planlet_id":"' + b"x" * (room + extra) + b'"}'
        for raw in (planlet, planlet + b"\n", b"[" + planlet + b"  \n]"):
            found = problems(raw)
            assert [m for _, _, m in found] == ([message] if message else []), extra


def test_nesting_is_bounded_by_a_number_and_not_by_the_stack() -> None:
    def nested(levels: int) -> bytes:
        step: dict[str, Any] = {"op": "x"}
        for _ in range(levels - 3):
            step = {"op": "x", "fallback": step}
        return json.dumps({**GOOD, "script": [step]}).encode()

    assert problems(nested(MAX_DEPTH), V01) == []
    for raw in (nested(MAX_DEPTH + 1), b"[" * 100_000, b'{"planlet_id":' * 100_000):
        ((_, _, message),) = problems(b'{"planlet_id":"first"}\n' + raw + b"\n", V01)[-1:]
        assert message == "it nests more than 64 levels deep"


def test_errors_are_bounded_in_number_and_length_and_all_counted() -> None:
    hostile = json.dumps({"planlet_id": "\x1b[31m\u202e" + "\U0001f680" * 5000}).encode()
    raw = (hostile + b"\n") * 1001
    checked = check(io.BytesIO(raw))
    assert (checked.errors, checked.duplicates, checked.valid) == (1000, 1000, 1)
    assert len(checked.problems) == KEPT_PROBLEMS
    event = e.RelabelTagsRejected(
        tag_file="t",
        digest=None,
        errors=tuple(map(str, checked.problems)),
        follows="x",
    )
    assert len(event.model_dump_json().encode()) < e.EVENT_LIMIT_BYTES / 2
    assert all(str(p).isprintable() for p in checked.problems)
    many = json.dumps({**GOOD, "script": [{}] * 1000}).encode()
    assert check(io.BytesIO(many), V01).errors == PROBLEMS_EACH


# --- schemas ------------------------------------------------------------------------------------------


def test_the_shipped_schema_describes_every_key_and_is_valid() -> None:
    schema = json.loads(shipped_bytes("planlet-v0.1"))
    jsonschema.Draft202012Validator.check_schema(schema)
    for part in (schema, schema["$defs"]["step"], schema["$defs"]["document"]):
        assert all(p["description"] for p in part["properties"].values())
    packaged = resources.files("launcher.planlets")
    assert [packaged.joinpath(f"{name}.json").is_file() for name in SHIPPED] == [True]


def test_planlet_v01_accepts_every_key_it_names() -> None:
    full = {
        **GOOD,
        "horizon_steps": 1,
        "rationale": "",
        "preconditions": ["awake", {"hp": 0.5}],
        "constraints": {"turns": 3},
        "retrieved_docs": [{"source": "dex", "snippet": "s", "url": "u"}],
        "confidence": 1,
        "risk_notes": ["may miss"],
        "metadata": {"anything": [1]},
        "script": [
            {
                "op": "MOVE",
                "actor": "lead",
                "move": "surf",
                "target": "foe",
                "hazard": "spikes",
                "tera_type": "water",
                "method": "m",
                "trigger": {"turn": 2},
                "information_goal": "item",
                "fallback": {"op": "SWITCH", "fallback": {"op": "WAIT"}},
            }
        ],
    }
    assert problems(lines(full), V01) == []


@pytest.mark.parametrize("key", ["kind", "seed_frame_id", "format", "side", "goal", "script"])
def test_planlet_v01_requires(key: str) -> None:
    lacking = {k: v for k, v in GOOD.items() if k != key}
    assert problems(lines(lacking), V01) == [(1, None, f"it lacks {key!r}")]


@pytest.mark.parametrize(
    ("change", "begins"),
    [
        ({"kind": "battle"}, "kind: 'battle' is not one of"),
        ({"seed_frame_id": "41"}, "seed_frame_id: '41' is not of type"),
        ({"seed_frame_id": True}, "seed_frame_id: True is not of type"),
        ({"side": "p3"}, "side: 'p3' is not one of"),
        ({"goal": 3}, "goal: 3 is not of type"),
        ({"script": []}, "script: [] should be non-empty"),
        ({"script": [{"op": "A"}, {"actor": "x"}]}, "script[1]: it lacks 'op'"),
        ({"script": [{"op": "A", "target": 3}]}, "script[0].target: 3 is not of type"),
        ({"script": [{"op": "A", "fallback": {}}]}, "script[0].fallback: it lacks 'op'"),
        ({"horizon_steps": 0}, "horizon_steps: 0 is less than"),
        ({"confidence": 1.01}, "confidence: 1.01 is greater than"),
        ({"metadata": []}, "metadata: [] is not of type"),
        ({"preconditions": "awake"}, "preconditions: 'awake' is not of type"),
        ({"retrieved_docs": [{"url": "u"}]}, "retrieved_docs[0]: it lacks 'source'"),
        ({"rationale": None}, "rationale: None is not of type"),
        ({"planner": "bot"}, "Additional properties are not allowed ('planner' was unexpected)"),
    ],
)
def test_planlet_v01_refuses(change: dict[str, Any], begins: str) -> None:
    ((line, _, message),) = problems(lines({**GOOD, **change}), V01)
    assert line == 1
    assert message.startswith(begins)


def test_a_bad_id_is_said_once_and_in_our_words() -> None:
    found = problems(lines({**GOOD, "planlet_id": 3}), V01)
    assert found == [(1, None, "its planlet_id is a number, not text")]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "line 1: it is no JSON"),
        ('{"type": "objekt"}', "is no JSON Schema: type:"),
        ('{"pattern": "("}', "is no JSON Schema: pattern:"),
        ("[]", "is no JSON Schema: neither an object"),
        ('{"$schema": "https://example.com/mine"}', "is of the draft 'https://example.com/mine'"),
        ('{"$ref": "#/$defs/absent"}', "$ref '#/$defs/absent' leads nowhere"),
        ('{"not": {"$ref": "other.json"}}', "$ref 'other.json' leads nowhere"),
        ('{"$ref": "#/odd/a", "odd": {"a": {"$ref": "#/odd/b"}}}', "$ref '#/odd/b' leads nowhere"),
        ('{"type": "object", "type": "array"}', "the key 'type' is in one object twice"),
    ],
)
def test_a_schema_that_is_none_is_wrong_use(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "s.json").write_text(text)
    with pytest.raises(UsageError) as caught:
        load_schema("s.json", tmp_path)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["absent.json", "folder"])
def test_a_schema_that_is_not_there_is_wrong_use(tmp_path: Path, name: str) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(UsageError, match=name):
        load_schema(name, tmp_path)


def test_nothing_is_ever_fetched(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        url = f"http://127.0.0.1:{server.getsockname()[1]}/schema.json"
        for value in ({"$ref": url}, {"properties": {"x": {"items": {"$ref": url}}}}):
            with pytest.raises(UsageError, match="leads nowhere within it"):
                load_schema(schema_file(tmp_path, value), tmp_path)
        with pytest.raises(BlockingIOError):
            server.accept()


@pytest.mark.parametrize(
    "value",
    [
        {"$ref": "https://json-schema.org/draft/2020-12/schema"},
        {"$id": "http://example.com/a", "$ref": "b", "$defs": {"b": {"$id": "b"}}},
        {"$schema": "http://json-schema.org/draft-07/schema#", "$ref": "#/definitions/a"}
        | {"definitions": {"a": {}}},
        {"$ref": "#here", "$defs": {"x": {"$anchor": "here"}}},
        {"enum": [{"planlet_id": "p1", "$ref": "#/not/a/reference"}, GOOD]},
        {"properties": {"$ref": {"type": "string"}}},
        True,
    ],
)
def test_references_within_a_schema_are_followed(tmp_path: Path, value: object) -> None:
    schema = load_schema(schema_file(tmp_path, value), tmp_path)
    assert problems(lines(GOOD), schema) == []


def test_a_schema_that_never_ends_is_wrong_use(tmp_path: Path) -> None:
    schema = load_schema(schema_file(tmp_path, {"$ref": "#"}), tmp_path)
    with pytest.raises(UsageError, match="does not come to an end"):
        problems(lines(GOOD), schema)


def test_what_two_schemas_require_of_one_object_is_said_of_both(tmp_path: Path) -> None:
    value = {"allOf": [{"required": ["a", "b"]}, {"required": ["c"]}]}
    schema = load_schema(schema_file(tmp_path, value), tmp_path)
    found = [message for _, _, message in problems(lines(GOOD), schema)]
    assert found == ["it lacks 'a', 'b'", "it lacks 'c'"]


def test_a_message_about_a_large_value_keeps_its_reason(tmp_path: Path) -> None:
    schema = load_schema(schema_file(tmp_path, {"properties": {"x": {"type": "null"}}}), tmp_path)
    ((_, _, message),) = problems(lines({**GOOD, "x": "long " * 1000}), schema)
    assert len(message) <= check_module.MESSAGE_CHARACTERS
    assert message.endswith("is not of type 'null'")


# --- a run's tags -------------------------------------------------------------------------------------


def document(root: Path, run_id: str) -> dict[str, Any]:
    path = root / f"runs/self_distill/{run_id}/metadata/relabel_tags.json"
    value = json.loads(path.read_bytes())
    assert isinstance(value, dict)
    return value


def test_good_tags_are_validated_once_however_often_it_is_asked(tmp_path: Path) -> None:
    ws = open_project(tmp_path)
    place = relabelled(ws, "r", lines(GOOD))
    first = validate(ws, "r", None)
    size = ws.ledger.head().size
    again = validate(open_project(tmp_path), "r", None)
    assert (first.status, first.visible, again) == ("validated", "same", first)
    assert ws.ledger.head().size == size
    assert document(tmp_path, "r")["status"] == "validated"
    assert document(tmp_path, "r")["counts"] == first.checked.counts()
    assert place.read_bytes() == lines(GOOD)
    emitted, said = tag_events(ws, "r")
    assert (said.data.follows, said.data.source, said.actor) == (emitted.id, "launcher", "ana")


def test_each_other_verdict_is_a_new_fact_and_names_its_schema(tmp_path: Path) -> None:
    ws = open_project(tmp_path)
    relabelled(ws, "r", lines({"planlet_id": "a"}))
    verdicts = [validate(ws, "r", schema).status for schema in (None, V01, V01, None, V01)]
    assert verdicts == ["validated", "rejected", "rejected", "validated", "rejected"]
    facts = tag_events(ws, "r")
    assert [r.type.removeprefix("RelabelTags") for r in facts] == [
        "Emitted",
        "Validated",
        "Rejected",
        "Validated",
        "Rejected",
    ]
    assert [r.data.follows for r in facts[1:]] == [r.id for r in facts[:-1]]
    assert facts[-1].data.schema_digest == V01.digest
    assert ws.store.read_blob(V01.digest) == shipped_bytes("planlet-v0.1")
    assert facts[-1].data.errors[0].startswith("line 1: it lacks 'kind'")
    assert document(tmp_path, "r")["status"] == "rejected"


@pytest.mark.parametrize("after", ["changed", "same size", "missing", "folder"])
def test_what_the_stage_left_is_judged_whatever_became_of_the_file(
    tmp_path: Path, after: str
) -> None:
    ws = open_project(tmp_path)
    place = relabelled(ws, "r", lines(GOOD))
    if after == "changed":
        place.write_bytes(b"broken")
    elif after == "same size":
        place.write_bytes(b"x" * len(lines(GOOD)))
    else:
        place.unlink()
        if after == "folder":
            place.mkdir()
    before = place.read_bytes() if place.is_file() else None
    verdict = validate(ws, "r", V01)
    assert verdict.status == "validated"
    assert verdict.visible == ("changed" if after in ("changed", "same size") else "missing")
    assert (place.read_bytes() if place.is_file() else None) == before
    assert not list(ws.locks.glob("tags.*"))


def test_a_tag_file_that_was_not_written_is_rejected(tmp_path: Path) -> None:
    ws = open_project(tmp_path)
    place = relabelled(ws, "r", None)
    verdict = validate(ws, "r", None)
    assert (verdict.status, verdict.digest, verdict.visible) == ("rejected", None, "absent")
    assert [str(p) for p in verdict.checked.problems] == [
        "the tag file: the relabel stage did not write it"
    ]
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_bytes(lines(GOOD))
    late = validate(ws, "r", None)
    assert (late.status, late.visible) == ("rejected", "changed")
    assert len(tag_events(ws, "r")) == 2


def test_an_open_run_is_judged_as_soon_as_its_tags_are_final(tmp_path: Path) -> None:
    ws = open_project(tmp_path)
    relabelled(ws, "r", lines(GOOD), ended=False)
    assert validate(ws, "r", None).status == "validated"
    assert ws.journal.run("r").status == "open"


def test_a_run_without_tags_is_told_apart(tmp_path: Path) -> None:
    ws = open_project(tmp_path)
    say(ws, "open", requested(ws, "open"))
    with pytest.raises(ConflictError, match="relabel stage of run open has not ended yet"):
        validate(ws, "open", None)
    say(ws, "skipped", requested(ws, "skipped"))
    say(
        ws,
        "skipped",
        e.StageSkipped(stage="relabel", reason="RELABEL_CMD is empty"),
        e.RunSucceeded(),
    )
    with pytest.raises(UsageError, match="relabel stage is skipped: RELABEL_CMD is empty"):
        validate(ws, "skipped", None)
    relabelled(ws, "unset", None, relabel_tag_file=None)
    with pytest.raises(UsageError, match="RELABEL_TAG_FILE was not set"):
        validate(ws, "unset", None)
    assert [r.type for r in tag_events(ws, "unset")] == ["RelabelTagsEmitted"]


def test_a_damaged_or_lost_copy_is_no_verdict(tmp_path: Path) -> None:
    ws = open_project(tmp_path)
    relabelled(ws, "r", lines(GOOD))
    tags = ws.journal.run("r").tags
    assert tags is not None
    assert tags.digest is not None
    blob = tmp_path / "runs/self_distill/objects" / blob_key(tags.digest)
    blob.chmod(0o644)
    blob.write_bytes(b"x" * blob.stat().st_size)
    with pytest.raises(IntegrityError, match="damaged"):
        validate(ws, "r", None)
    blob.unlink()
    with pytest.raises(IntegrityError, match="is not in"):
        validate(ws, "r", None)
    assert len(tag_events(ws, "r")) == 1
    assert document(tmp_path, "r")["status"] == "pending"
    assert not list(ws.locks.glob("*tags.*"))


def test_a_status_that_a_job_wrote_comes_first(tmp_path: Path) -> None:
    ws = open_project(tmp_path)
    relabelled(ws, "r", lines(GOOD))
    path = tmp_path / "runs/self_distill/r/metadata/relabel_tags.json"
    path.write_text(path.read_text().replace('"pending"', '"rejected"'))
    assert validate(ws, "r", None).status == "validated"
    facts = [(r.type, r.actor) for r in tag_events(ws, "r")[1:]]
    assert facts == [("RelabelTagsRejected", "file"), ("RelabelTagsValidated", "ana")]
    assert document(tmp_path, "r")["status"] == "validated"


def test_many_at_once_say_each_verdict_after_the_one_before(tmp_path: Path) -> None:
    ws = open_project(tmp_path)
    relabelled(ws, "r", lines({"planlet_id": "a"}))

    def one(number: int) -> str:
        return validate(open_project(tmp_path), "r", V01 if number % 2 else None).status

    with ThreadPoolExecutor(6) as pool:
        verdicts = list(pool.map(one, range(6)))
    assert verdicts == ["validated", "rejected"] * 3
    facts = tag_events(open_project(tmp_path), "r")
    assert [r.data.follows for r in facts[1:]] == [r.id for r in facts[:-1]]
    types = [r.type for r in facts]
    assert all(a != b for a, b in itertools.pairwise(types))
    assert document(tmp_path, "r")["status"] == (
        "validated" if types[-1][-9:] == "Validated" else "rejected"
    )
