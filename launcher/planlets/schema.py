"""The JSON Schemas that a planlet can be held to: the shipped ones by name, any other by its file.

Rules:

1. A schema is looked at whole before any planlet is: it is valid by its own draft, and every ``$ref`` in it
   leads somewhere within it or to a draft's own schema. Nothing is ever fetched.
2. ``format`` is a note, as the drafts have it, and is not checked.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib import resources
from itertools import islice
from pathlib import Path
from typing import Any, Final

from launcher.errors import UsageError
from launcher.planlets.strict import NotStrictError, parse_strict
from launcher.storage.blobs import digest_bytes, open_source

__all__ = ["SHIPPED", "Schema", "load_schema", "shipped_bytes"]

#: The schemas that come with the program, oldest first.
SHIPPED: Final = ("planlet-v0.1",)
_LIMIT_BYTES: Final = 4 * 1024 * 1024
_DRAFT: Final = "https://json-schema.org/draft/2020-12/schema"


@dataclass(frozen=True, slots=True)
class Schema:
    """A schema that was looked at. ``name`` is what the user called it, ``digest`` that of its bytes."""

    name: str
    raw: bytes
    digest: str
    _validator: Any

    def problems(self, planlet: Any, limit: int) -> Iterator[tuple[str, str]]:
        """(path within the planlet, what is wrong) of at most ``limit`` things, in the schema's order.

        Raises UsageError where the schema itself never comes to an end, or its patterns are none.
        """
        try:
            yield from islice(_said(self._validator.iter_errors(planlet)), limit)
        except RecursionError:
            raise UsageError(
                f"schema {self.name} does not come to an end: a $ref leads back to itself"
            ) from None
        except re.error as exc:
            raise UsageError(f"schema {self.name}: {exc.pattern!r:.100} is no pattern") from exc


def shipped_bytes(name: str) -> bytes:
    """A shipped schema's bytes. Raises UsageError."""
    if name not in SHIPPED:
        raise UsageError(f"no schema {name!r} is shipped", f"there is {', '.join(SHIPPED)}")
    return resources.files("launcher.planlets").joinpath(f"{name}.json").read_bytes()


def load_schema(name: str, root: Path) -> Schema:
    """A shipped schema, or the file ``name`` (relative to ``root``). Raises UsageError."""
    raw = shipped_bytes(name) if name in SHIPPED else _file_bytes(name, root)
    try:
        value = parse_strict(raw)
    except NotStrictError as exc:
        raise UsageError(f"schema {name}, line {exc.line}: {exc.reason}") from exc
    return Schema(name, raw, digest_bytes(raw).digest, _validator(name, value))


def _file_bytes(name: str, root: Path) -> bytes:
    path = root / name
    if not path.exists():
        raise UsageError(f"schema {name} is not there", f"shipped with it: {', '.join(SHIPPED)}")
    with open_source(path) as (file, _):
        raw = file.read(_LIMIT_BYTES + 1)
    if len(raw) > _LIMIT_BYTES:
        raise UsageError(f"schema {name} is longer than {_LIMIT_BYTES // 1024**2} MiB")
    return raw


def _validator(name: str, value: Any) -> Any:
    import referencing
    from jsonschema import exceptions, validators

    if not isinstance(value, dict | bool):
        raise UsageError(f"schema {name} is no JSON Schema: neither an object nor true or false")
    draft = value.get("$schema", _DRAFT) if isinstance(value, dict) else _DRAFT
    no_draft: Any = None
    known: Any = validators.validator_for({"$schema": str(draft)}, default=no_draft)
    if known is None:
        raise UsageError(f"schema {name} is of the draft {draft!r:.100}, which is not known")
    try:
        known.check_schema(value)
    except exceptions.SchemaError as exc:
        where = _path(exc.absolute_path) or "its top"
        raise UsageError(f"schema {name} is no JSON Schema: {where}: {exc.message:.300}") from exc
    except RecursionError:
        raise UsageError(f"schema {name} nests too deeply") from None
    validator = known(value, registry=referencing.Registry())
    _check_refs(name, value, str(draft))
    return validator


def _check_refs(name: str, value: Any, draft: str) -> None:
    """See rule 1. Raises UsageError for a reference that leads nowhere."""
    import referencing.exceptions
    from jsonschema_specifications import REGISTRY  # type: ignore[import-untyped]
    from referencing.jsonschema import specification_with

    dialect: Any = specification_with(draft)
    registry: Any = REGISTRY
    resource = dialect.create_resource(value)
    todo: list[Any] = [(resource, registry.resolver_with_root(resource))]
    seen: set[int] = set()
    while todo:
        part, resolver = todo.pop()
        if not isinstance(part.contents, dict) or id(part.contents) in seen:
            continue
        seen.add(id(part.contents))
        for keyword in ("$ref", "$dynamicRef", "$recursiveRef"):
            ref = part.contents.get(keyword)
            if not isinstance(ref, str):
                continue
            try:
                found = resolver.lookup(ref)
            except (referencing.exceptions.Unresolvable, ValueError) as exc:
                raise UsageError(
                    f"schema {name}: {keyword} {ref!r:.200} leads nowhere within it",
                    "nothing is fetched: put what it needs under $defs",
                ) from exc
            todo.append((dialect.create_resource(found.contents), found.resolver))
        todo += [(sub, resolver.in_subresource(sub)) for sub in part.subresources()]


def _said(errors: Iterable[Any]) -> Iterator[tuple[str, str]]:
    """(path, message) of each error; the keys that one object lacks are one message."""
    incomplete: tuple[int, int] | None = None
    for error in errors:
        if error.validator == "required" and isinstance(error.validator_value, list):
            this = (id(error.instance), id(error.validator_value))
            if incomplete == this:
                continue
            incomplete = this
            lacking = [key for key in error.validator_value if key not in error.instance]
            yield _path(error.absolute_path), f"it lacks {', '.join(map(repr, lacking))}"
        else:
            yield _path(error.absolute_path), error.message


def _path(parts: Any) -> str:
    """``script[0].op``; a key that is no plain name is shown in quotes."""
    shown = ""
    for part in parts:
        if isinstance(part, int):
            shown += f"[{part}]"
        elif part.isidentifier():
            shown += f".{part}" if shown else part
        else:
            shown += f"[{part!r}]"
    return shown
