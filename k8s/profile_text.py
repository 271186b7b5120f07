"""From a profile's text to a profile, every problem named by its path in the file. Pure.

Two readings: first each section for itself, so that what is wrong is said where it stands; then each stage with its
defaults, for what only shows together: an image that is missing, shared memory that is more than the memory.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from k8s.errors import Problem, ProfileError
from k8s.profile import MERGED, Agent, Profile, Service, StageProfile, Volume
from k8s.profile_values import PATTERN_WORDS
from k8s.quantity import amount
from k8s.wrapper import HANDOVER
from k8s.yaml_text import Parsed, Path, YamlError, dotted, parse_yaml
from ledger.canonical import canonical_json
from ledger.events import STAGES, StageName

__all__ = ["OWN_NAMES", "ReadProfile", "parse_profile"]

#: What the launcher sets for every stage.
OWN_NAMES: Final = frozenset(
    "RUN_ID RUN_DIR STAGE ATTEMPT LOG_DIR CHECKPOINT_DIR ARTIFACT_DIR METADATA_DIR STUDENT_CHECKPOINT "  # noqa: SIM905
    "RESUME_CHECKPOINT TEACHER_CHECKPOINT TEACHER_SCORECARD RELABEL_TAG_FILE".split()
)
#: Where the launcher mounts something itself: not there, nor above it.
OWN_PLACES: Final = ("/workspace", HANDOVER, "/tmp", "/home/stage", "/dev/shm")
_SECRET_NAME: Final = re.compile(r"(^|_)(KEY|TOKEN|SECRET|PASSWORD)$")


@dataclass(frozen=True, slots=True)
class ReadProfile:
    """A profile, each stage with its defaults. ``digest`` is of what it means: order, comments and spelling aside."""

    file: str
    profile: Profile
    stages: Mapping[StageName, StageProfile]
    digest: str


def parse_profile(text: str, file: str, *, stages: Collection[StageName] = STAGES) -> ReadProfile:
    """The profile that ``text`` is. ``stages`` are those that will run: each needs an image.

    ``file`` is how messages name it. Raises ProfileError with everything that is wrong.
    """
    try:
        parsed = parse_yaml(text)
    except YamlError as exc:
        raise ProfileError(file, [exc.problem]) from exc
    if not isinstance(parsed.value, dict):
        found = "it is empty" if parsed.value is None else "it is no mapping of keys to values"
        raise ProfileError(file, [Problem("", found)])
    profile = _validated(Profile, parsed.value, parsed, file)
    whole = {name: _with_defaults(profile, name) for name in STAGES}
    problems = list(_shared_problems(profile, parsed))
    for name in STAGES:
        problems += _stage_problems(profile, name, whole[name], parsed, name in stages)
    if problems:
        raise ProfileError(file, list(dict.fromkeys(problems)))
    return ReadProfile(file, profile, whole, _digest(profile, whole))


def _digest(profile: Profile, whole: Mapping[StageName, StageProfile]) -> str:
    def said(model: BaseModel) -> Any:
        return model.model_dump(mode="json", exclude_defaults=True)

    meaning = {
        "profile": profile.model_dump(
            mode="json", exclude_defaults=True, exclude={"defaults", "stages"}
        ),
        "stages": {name: said(stage) for name, stage in whole.items()},
    }
    return f"sha256:{hashlib.sha256(canonical_json(meaning)).hexdigest()}"


# --- one section at a time ---


def _validated(model: type[Profile], value: dict[str, Any], parsed: Parsed, file: str) -> Profile:
    try:
        # By way of JSON: there an array is a tuple's or a list's, and still no text is a number.
        return model.model_validate_json(json.dumps(value))
    except ValidationError as exc:
        problems = [_problem(one, parsed) for one in exc.errors(include_url=False)]
        raise ProfileError(file, problems) from exc


def _problem(error: ErrorDetails, parsed: Parsed) -> Problem:
    # pydantic names a bad key by the key and '[key]'.
    path: Path = tuple(part for part in error["loc"] if part != "[key]")
    return _at(path, _words(error, path), parsed)


def _at(path: Path, message: str, parsed: Parsed) -> Problem:
    return Problem(dotted(path), message, parsed.lines.get(path))


#: What pydantic calls it, and what is said of the value.
_RULES: Final[Mapping[str, str]] = {
    "bool_type": "must be true or false",
    "dict_type": "must be a mapping of keys to values",
    "greater_than_equal": "must be at least {ge}",
    "int_from_float": "must be a whole number",
    "int_type": "must be a whole number",
    "less_than_equal": "must be at most {le}",
    "list_type": "must be a list",
    "literal_error": "must be {expected}",
    "model_attributes_type": "must be a mapping of keys to values",
    "model_type": "must be a mapping of keys to values",
    "string_too_long": "is longer than {max_length} characters",
    "string_type": "must be text: put it in quotes",
    "value_error": "{error}",
}


def _words(error: ErrorDetails, path: Path) -> str:
    """What is wrong, to be read after its path."""
    kind, context, given = error["type"], error.get("ctx", {}), error.get("input")
    if kind == "extra_forbidden":
        return f"unknown key{_meant(path)}"
    if kind == "missing":
        return "missing"
    if kind == "string_pattern_mismatch":
        rule = PATTERN_WORDS.get(context["pattern"], f"does not match {context['pattern']}")
        return _about(given, rule)
    if rule := _RULES.get(kind, ""):
        return _about(given, rule.format(**context))
    return _about(given, error["msg"][:1].lower() + error["msg"][1:])


def _about(given: Any, rule: str) -> str:
    """The value first, where it is short enough to be recognised."""
    if given is None:
        return rule if rule.startswith("has no value") else f"is empty: it {rule}"
    if isinstance(given, dict | list):
        return rule
    shown = str(given).lower() if isinstance(given, bool) else str(given)
    return f"{shown[:60]!r} {rule}" if isinstance(given, str) else f"{shown} {rule}"


def _meant(path: Path) -> str:
    """The key that was meant, perhaps."""
    known = _known_keys(path[:-1])
    close = difflib.get_close_matches(str(path[-1]), known, n=1)
    if close:
        return f"; is {close[0]} meant?"
    return f"; there are {', '.join(sorted(known))}" if known and len(known) <= 12 else ""


def _known_keys(path: Path) -> list[str]:
    """The keys of the section at ``path``, from the models."""
    model: Any = Profile
    for part in path:
        if isinstance(part, int):
            continue
        field = model.model_fields.get(part)
        model = field and _section_of(field.annotation)
        if model is None:
            return []
    return list(model.model_fields)


def _section_of(annotation: Any) -> Any:
    """The model in ``Model``, ``Model | None`` or ``list[Model]``."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    found = (_section_of(one) for one in getattr(annotation, "__args__", ()))
    return next((one for one in found if one is not None), None)


# --- a stage with its defaults ---


def _with_defaults(profile: Profile, name: StageName) -> StageProfile:
    own = getattr(profile.stages, name).model_dump(exclude_unset=True)
    merged = profile.defaults.model_dump(exclude_unset=True)
    for key, value in own.items():
        if key in MERGED and value is not None:
            merged[key] = {**(merged.get(key) or {}), **value}
        else:
            merged[key] = value
    merged = {key: value for key, value in merged.items() if value is not None}
    merged.setdefault("llm", "off" if name == "llm_off" else "on")
    return StageProfile.model_validate(merged, strict=False)


def _stage_problems(
    profile: Profile, name: StageName, stage: StageProfile, parsed: Parsed, will_run: bool
) -> Iterable[Problem]:
    def at(key: str, message: str) -> Problem:
        """Where it was said: by the stage, or for all of them."""
        said = key.split(".")[0] in getattr(profile.stages, name).model_fields_set
        path: Path = ("stages", name) if said else ("defaults",)
        return _at((*path, *key.split(".")), message, parsed)

    if stage.image is None and will_run:
        yield _at(("stages", name, "image"), "missing, and there is no defaults.image", parsed)
    memory, shared = stage.resources.memory, stage.shared_memory
    if memory and shared and amount(shared) > amount(memory):
        yield at("shared_memory", f"{shared} is more than the memory, {memory}, that it counts as")
    pending, deadline = stage.pending_deadline_seconds, stage.deadline_seconds
    if pending and deadline and pending >= deadline:
        yield at(
            "pending_deadline_seconds", f"{pending} is no less than deadline_seconds, {deadline}"
        )
    for key, message in stage.resources.contradictions():
        yield at(f"resources.{key}", message)
    yield from _service_problems(stage.services, at)
    yield from _both_ways(stage.env, stage.secret_env, at)


def _service_problems(
    services: Sequence[Service], at: Callable[[str, str], Problem]
) -> Iterable[Problem]:
    for what in ("name", "port", "url_variable"):
        given = [value for one in services if (value := getattr(one, what)) is not None]
        for value in sorted({one for one in given if given.count(one) > 1}, key=str):
            yield at("services", f"two of them have the {what} {value}")
    for one in services:
        if one.name in ("command", "fetch", "collect"):
            yield at("services", f"the name {one.name} is the launcher's own")
        if one.url_variable in OWN_NAMES:
            yield at("services", f"{one.url_variable} is set by the launcher")


def _both_ways(
    env: Mapping[str, str], secret_env: Collection[str], at: Callable[[str, str], Problem]
) -> Iterable[Problem]:
    for name in sorted(env.keys() & set(secret_env)):
        yield at(f"env.{name}", "is in secret_env, too")


# --- wherever it stands ---


def _shared_problems(profile: Profile, parsed: Parsed) -> Iterable[Problem]:
    """What is wrong with each variable and volume, at the place where it was written."""
    sections: list[tuple[Path, StageProfile]] = [(("defaults",), profile.defaults)]
    sections += [(("stages", name), getattr(profile.stages, name)) for name in STAGES]
    for path, section in sections:
        yield from _variables(section.env, section.secret_env, path, parsed, OWN_NAMES)
        yield from _volumes(section.volumes, (*path, "volumes"), profile, parsed)
        for i, service in enumerate(section.services):
            at: Path = (*path, "services", i)
            yield from _beside(service, at, parsed)
            yield from _volumes(service.volumes, (*at, "volumes"), profile, parsed)
    yield from _beside(profile.agent, ("agent",), parsed)
    for key, message in profile.driver.resources.contradictions():
        yield _at(("driver", "resources", key), message, parsed)
    if profile.store and (own := _own_place(profile.store.path)):
        yield _at(("store", "path"), f"the launcher mounts its own {own} there", parsed)
    if profile.store and profile.store.host_path and not profile.allow_host_path:
        yield _host_path(("store", "host_path"), parsed)


def _beside(container: Service | Agent, path: Path, parsed: Parsed) -> Iterable[Problem]:
    """What is wrong with a container that has no defaults."""
    yield from _variables(container.env, container.secret_env, path, parsed, frozenset())
    for name in sorted(container.env.keys() & container.secret_env.keys()):
        yield _at((*path, "env", name), "is in secret_env, too", parsed)
    for key, message in container.resources.contradictions():
        yield _at((*path, "resources", key), message, parsed)


def _variables(
    env: Collection[str],
    secret_env: Collection[str],
    path: Path,
    parsed: Parsed,
    own: Collection[str],
) -> Iterable[Problem]:
    for key, names in (("env", env), ("secret_env", secret_env)):
        for name in sorted(set(names) & set(own)):
            yield _at((*path, key, name), "is set by the launcher", parsed)
    for name in env:
        if _SECRET_NAME.search(name):
            message = "by its name it is a secret: give a Secret's name and key under secret_env"
            yield _at((*path, "env", name), message, parsed)


def _volumes(
    volumes: Sequence[Volume], path: Path, profile: Profile, parsed: Parsed
) -> Iterable[Problem]:
    places: list[str] = []
    for i, volume in enumerate(volumes):
        place = volume.mount_path
        if place in places:
            yield _at((*path, i, "mount_path"), f"{place} is another volume's, too", parsed)
        places.append(place)
        if own := _own_place(place):
            message = f"the launcher mounts its own {own} there"
            yield _at((*path, i, "mount_path"), message, parsed)
        if volume.host_path and not profile.allow_host_path:
            yield _host_path((*path, i, "host_path"), parsed)


def _own_place(place: str) -> str | None:
    """What of OWN_PLACES a mount at ``place`` would hide, or, in the handover folder, would pass for."""
    hidden = (own for own in OWN_PLACES if own == place or own.startswith(f"{place}/"))
    return HANDOVER if place.startswith(f"{HANDOVER}/") else next(hidden, None)


def _host_path(path: Path, parsed: Parsed) -> Problem:
    message = "a folder of the node is refused unless the profile says allow_host_path: true"
    return _at(path, message, parsed)
