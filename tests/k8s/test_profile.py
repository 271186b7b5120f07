"""A profile says where stages run; what it cannot say is named by its path in the file, all of it at once."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from k8s.errors import ProfileError
from k8s.profile import Agent, Profile, Resources, Service, StageProfile, Store, Volume
from k8s.profile_file import read_profile
from k8s.profile_text import parse_profile
from tests.k8s.golden import ROOT
from tests.k8s.profiles import LEAST, problems, read
from tests.k8s.refusals import BEYOND, SEEN, in_retrain

REFUSED = {**SEEN, **BEYOND}


@pytest.mark.parametrize(
    ("text", "said"), REFUSED.items(), ids=[one.strip().split("\n")[-1] for one in REFUSED]
)
def test_what_is_wrong_is_named_by_its_path(text: str, said: list[str]) -> None:
    assert problems(text) == said


def test_all_problems_are_said_and_the_first_is_the_message() -> None:
    text = "agent: {image: r/agent}\nstages:\n  retrain:\n    gpus: 1\n    image: A\n    save_seconds: 1\n"
    with pytest.raises(ProfileError) as refused:
        read(text)
    assert [one.path for one in refused.value.problems] == [
        "stages.retrain.image", "stages.retrain.save_seconds", "stages.retrain.gpus",
    ]  # fmt: skip
    assert [one.line for one in refused.value.problems] == [5, 6, 4]
    first = str(refused.value.problems[0])
    assert str(refused.value) == f"p.yaml: {first}, and 2 more"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "it is empty"),
        ("# nothing\n", "it is empty"),
        ("- agent", "it is no mapping of keys to values"),
        ("agent", "it is no mapping of keys to values"),
        (f"{LEAST}defaults: {{}}\n", "defaults: it is there twice, first on line 2 (line 3)"),
        ("agent: {image: a\n", "no YAML: expected ',' or '}', but got '<stream end>' (line 2)"),
    ],
)
def test_what_is_no_profile_at_all(text: str, said: str) -> None:
    assert problems(text) == [said]


def test_an_image_is_missing_only_where_a_stage_will_run() -> None:
    text = "agent: {image: r/agent}\nstages: {retrain: {image: r/train}}\n"
    assert len(problems(text)) == 3
    assert parse_profile(text, "p.yaml", stages=["retrain"]).stages["retrain"].image == "r/train"


@pytest.mark.parametrize("name", ["cpu", "gpu", "kueue"])
def test_the_profiles_to_begin_with_are_whole(name: str) -> None:
    made = read_profile(ROOT / "configs" / "profiles" / f"{name}.yaml")
    assert all(stage.image for stage in made.stages.values())
    assert [name for name, stage in made.stages.items() if stage.llm == "off"] == ["llm_off"]


# --- a stage and its defaults ---

DEFAULTS = """\
agent: {image: r/agent}
defaults:
  image: r/train
  resources: {cpu: 4, memory: 16Gi}
  env: {A: "1", B: "1"}
  volumes: [{claim: data, mount_path: /data}]
  queue: gpus
  node_selector: {disk: nvme}
stages:
"""


def test_a_stage_adds_to_entries_and_replaces_everything_else() -> None:
    text = (
        "  retrain: {resources: {gpus: 2}, env: {B: two}, volumes: [{claim: m, mount_path: /m}]}\n"
    )
    made = read(DEFAULTS + text).stages
    mine, other = made["retrain"], made["relabel"]
    assert (mine.resources.cpu, mine.resources.memory, mine.resources.gpus) == ("4", "16Gi", 2)
    assert mine.env == {"A": "1", "B": "two"}
    assert [one.claim for one in mine.volumes] == ["m"]
    assert mine.queue == "gpus"
    assert other.env == {"A": "1", "B": "1"}
    assert [one.claim for one in other.volumes] == ["data"]


def test_null_and_an_empty_list_take_a_default_away() -> None:
    made = read(f"{DEFAULTS}  relabel: {{queue: null, volumes: [], resources: {{memory: null}}}}\n")
    relabel = made.stages["relabel"]
    assert (relabel.queue, relabel.volumes, relabel.resources.memory) == (None, [], None)
    assert relabel.resources.cpu == "4"


def test_what_a_default_and_a_stage_only_contradict_together_is_said_once_where_it_stands() -> None:
    text = DEFAULTS.replace("memory: 16Gi", "extended: {a.com/gpu: 1}")
    said = problems(f"{text}  retrain: {{resources: {{gpu_resource: a.com/gpu, cpu_limit: 2}}}}\n")
    assert said == [
        "stages.retrain.resources.extended: names a.com/gpu again: gpus is for it",
        "stages.retrain.resources.cpu_limit: 2 is less than the cpu, 4, that is asked for (line 10)",
    ]
    shared = DEFAULTS.replace("queue: gpus", "shared_memory: 32Gi")
    assert problems(f"{shared}  retrain: {{}}\n") == [
        "defaults.shared_memory: 32Gi is more than the memory, 16Gi, that it counts as (line 7)"
    ]


def test_a_folder_of_the_node_is_there_for_whoever_says_so() -> None:
    text = in_retrain("volumes: [{mount_path: /data, host_path: /srv}]")
    made = read(f"{text}allow_host_path: true\n")
    assert made.stages["retrain"].volumes[0].source == ("host_path", "/srv")


@pytest.mark.parametrize(
    ("written", "meant"),
    [("off", "off"), ("on", "on"), ("false", "off"), ("true", "on"), ("'off'", "off")],
)
def test_llm_is_on_or_off_however_yaml_reads_it(written: str, meant: str) -> None:
    assert read(in_retrain(f"llm: {written}")).stages["retrain"].llm == meant


def test_values_are_what_was_written() -> None:
    text = in_retrain(
        "env: {A: no, B: 010, C: 1e3, D: 1.10, E: true, F: 7, G: '', H: 2026-01-01, I: 12:30}"
    )
    assert read(text).stages["retrain"].env == {
        "A": "no", "B": "010", "C": "1e3", "D": "1.10", "E": "true", "F": "7", "G": "", "H": "2026-01-01", "I": "12:30",
    }  # fmt: skip


# --- its digest ---


def test_the_digest_is_of_what_a_profile_means() -> None:
    same = [
        DEFAULTS + "  retrain: {env: {C: x}}\n",
        DEFAULTS.replace("disk: nvme", "disk: 'nvme'")
        + "  # a word\n  retrain:\n    env:\n      C: x\n",
        DEFAULTS.replace('{A: "1", B: "1"}', '{B: "1", A: "1"}') + "  retrain: {env: {C: x}}\n",
        DEFAULTS + "  retrain: {env: {C: x}, grace_seconds: 30}\n",
    ]
    assert len({read(text).digest for text in same}) == 1
    assert read(f"{DEFAULTS}  retrain: {{env: {{C: y}}}}\n").digest != read(same[0]).digest


# --- its file ---


def test_a_file_is_named_as_it_was_given(tmp_path: Path) -> None:
    path = tmp_path / "p.yaml"
    known = ", ".join(sorted(Profile.model_fields))
    for data, said in (
        (b"agent: {image: r/a}\nx: \xff\n", "byte 23 is not UTF-8 text (line 2)"),
        (b"#" * (256 * 1024 + 1), "is larger than 262144 bytes"),
        (b"agent: {image: r/a}\ny: 1\n", f"y: unknown key; there are {known} (line 2)"),
    ):  # fmt: skip
        path.write_bytes(data)
        with pytest.raises(ProfileError) as refused:
            read_profile(path)
        assert str(refused.value) == f"{path}: {said}"
    with pytest.raises(ProfileError, match=r"none\.yaml: cannot be read: No such file"):
        read_profile(tmp_path / "none.yaml")


def test_a_byte_order_mark_is_no_part_of_it(tmp_path: Path) -> None:
    path = tmp_path / "p.yaml"
    path.write_bytes(b"\xef\xbb\xbf" + LEAST.encode())
    assert read_profile(path).digest == read(LEAST).digest


# --- its guide ---

GUIDE = (ROOT / "docs" / "guides" / "profiles.md").read_text()
KEYS = {
    key
    for one in (Profile, StageProfile, Resources, Volume, Service, Agent, Store)
    for key in one.model_fields
}


def test_the_guide_explains_every_key() -> None:
    assert {key for key in KEYS if not re.search(rf"`{key}\b", GUIDE)} == set()


def test_the_guide_quotes_what_is_said() -> None:
    lines = re.findall(
        r"\| `((?:stages|defaults)[^`|]*?)`(?::[^|`]*)? \|", GUIDE.partition("## Common")[2]
    )
    known = {one for said in REFUSED.values() for one in said}
    assert len(lines) >= 9
    assert set(lines) - known == {"defaults: it is there twice, first on line 2 (line 3)"}


def test_the_guides_examples_are_profiles() -> None:
    examples = re.findall(r"```yaml\n(.*?)```", GUIDE, re.DOTALL)
    whole = [one for one in examples if "kind:" not in one]
    assert len(whole) == 5
    for text in whole:
        agent = "" if "agent:" in text else "agent: {image: r/agent}\n"
        image = "" if "defaults:" in text else "defaults: {image: r/train}\n"
        read(agent + image + text)
