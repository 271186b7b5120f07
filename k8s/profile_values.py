"""The values that a profile may have, each with what is said of one that is none. Pure."""

from __future__ import annotations

import re
from fractions import Fraction
from typing import Annotated, Any, Final

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema

from k8s.names import PREFIX, QUEUE
from k8s.quantity import QUANTITY, amount

__all__ = [
    "PATTERN_WORDS",
    "READY_PATH",
    "SECRET_KEY",
    "URL_PATH",
    "Amount",
    "Cpu",
    "EnvName",
    "EnvValue",
    "FreeLabelKey",
    "Image",
    "Label",
    "LabelKey",
    "LabelValue",
    "MountPath",
    "Name",
    "ResourceName",
    "Seconds",
    "Section",
    "SubPath",
    "Switch",
    "VariablePattern",
]


class Section(BaseModel):
    """A mapping of the file: no unknown keys, nothing converted."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


_NAME: Final = r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$"
_LABEL: Final = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"
_ENV: Final = r"^[A-Za-z_][A-Za-z0-9_]*$"
_ENV_PATTERN: Final = r"^[A-Za-z_][A-Za-z0-9_]*\*?$"
_WORD: Final = r"[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?"
_LABEL_KEY: Final = rf"^([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?{_WORD}$"
_LABEL_VALUE: Final = rf"^({_WORD})?$"
_RESOURCE: Final = rf"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?/{_WORD}$"
_PATH: Final = r"^/"
#: github.com/distribution/reference: a host may have capitals, a repository not.
_PART: Final = r"[a-z0-9]+([._-]+[a-z0-9]+)*"
_IMAGE: Final = (
    rf"^([A-Za-z0-9]([-A-Za-z0-9.]*[A-Za-z0-9])?(:[0-9]+)?/)?{_PART}(/{_PART})*"
    r"(:[A-Za-z0-9_][A-Za-z0-9_.-]{0,127})?(@sha256:[0-9a-f]{64})?$"
)

URL_PATH: Final = r"^(/[!-~]*)?$"
READY_PATH: Final = r"^/[!-~]*$"
SECRET_KEY: Final = r"^[-._a-zA-Z0-9]+$"

#: What pydantic's "should match pattern" means.
PATTERN_WORDS: Final = {
    _NAME: "is no Kubernetes name (a-z, 0-9, - and . inside)",
    _LABEL: "is no Kubernetes name (a-z, 0-9, - inside)",
    _ENV: "is no variable name (letters, digits and _, first no digit)",
    _ENV_PATTERN: "is no variable name, with or without a * at its end",
    _LABEL_KEY: "is no label's name such as example.com/team",
    _LABEL_VALUE: "is no label's value (letters, digits, - _ . inside)",
    _RESOURCE: "is no resource name such as nvidia.com/gpu",
    _PATH: "is no absolute path",
    URL_PATH: "is no path of a URL such as /v1",
    READY_PATH: "is no path of a URL such as /health",
    SECRET_KEY: "is no key of a Secret (letters, digits, - _ .)",
    _IMAGE: "is no image such as registry.example.com/team/train:1.2 (its name in small letters)",
}

Name = Annotated[str, Field(pattern=_NAME, max_length=253)]
Label = Annotated[str, Field(pattern=_LABEL, max_length=63)]
Image = Annotated[str, Field(pattern=_IMAGE, max_length=512)]
EnvName = Annotated[str, Field(pattern=_ENV, max_length=200)]
VariablePattern = Annotated[str, Field(pattern=_ENV_PATTERN, max_length=200)]
ResourceName = Annotated[str, Field(pattern=_RESOURCE, max_length=316)]
Seconds = Annotated[int, Field(ge=1, le=10 * 366 * 86400)]


def _not_ours(key: str) -> str:
    if key == QUEUE or key.startswith((f"{PREFIX}/", "batch.kubernetes.io/")):
        raise ValueError("is set by the launcher")
    return key


LabelKey = Annotated[str, Field(pattern=_LABEL_KEY, max_length=317)]
FreeLabelKey = Annotated[LabelKey, AfterValidator(_not_ours)]
LabelValue = Annotated[str, Field(pattern=_LABEL_VALUE, max_length=63)]


def _plain_path(path: str) -> str:
    parts = path.rstrip("/").split("/")[1:]
    if not parts or any(part in ("", ".", "..") for part in parts) or ":" in path:
        raise ValueError("is no place to mount at: no '.', '..', ':' or empty parts, and not /")
    if not path.isprintable():
        raise ValueError("has characters that cannot be shown")
    return path.rstrip("/")


def _downwards(path: str) -> str:
    if path.startswith("/") or ".." in path.split("/"):
        raise ValueError("must lead down from the volume")
    return path


SubPath = Annotated[str, Field(min_length=1), AfterValidator(_downwards)]
MountPath = Annotated[str, Field(pattern=_PATH, max_length=1024), AfterValidator(_plain_path)]


def _as_text(value: Any) -> Any:
    """An integer as it was written; a float never comes from our reader of YAML."""
    return str(value) if type(value) is int else value


def _env_text(value: Any) -> Any:
    if isinstance(value, bool):
        return str(value).lower()
    if value is None:
        raise ValueError("has no value: write '' for an empty one")
    return _as_text(value)


def _clean(value: str) -> str:
    if "\x00" in value:
        raise ValueError("has a NUL character")
    return value


_NUMBER_OR_TEXT: Final = {"anyOf": [{"type": "string", "pattern": QUANTITY}, {"type": "number"}]}
_ANY_SCALAR: Final = {"type": ["string", "number", "boolean"]}


def _amount(value: str) -> Fraction:
    try:
        return amount(value)
    except ValueError:  # which names the value, as whoever says this one does
        raise ValueError("is no quantity such as 500m, 2 or 16Gi") from None


def _memory(value: str) -> str:
    size = _amount(value)
    if size < 2**20:
        raise ValueError(f"is {float(size):g} bytes: is a unit missing, such as Gi?")
    if size > 2**60:
        raise ValueError("is more than any machine has")
    return value


def _cpu(value: str) -> str:
    if not 0 < (cpus := _amount(value)) <= 4096:
        raise ValueError(f"is {float(cpus):g} CPUs: such as 4, 0.5 or 500m")
    return value


_Quantity = Annotated[str, BeforeValidator(_as_text), WithJsonSchema(_NUMBER_OR_TEXT)]
#: Bytes.
Amount = Annotated[_Quantity, AfterValidator(_memory)]
Cpu = Annotated[_Quantity, AfterValidator(_cpu)]
EnvValue = Annotated[
    str, BeforeValidator(_env_text), AfterValidator(_clean), WithJsonSchema(_ANY_SCALAR)
]


def _switch(value: Any) -> Any:
    """YAML 1.1 reads off as false; whoever writes false means it."""
    if isinstance(value, bool):
        return "on" if value else "off"
    return value


def _on_or_off(value: str) -> str:
    if not re.fullmatch("on|off", value):
        raise ValueError("must be on or off")
    return value


Switch = Annotated[
    str,
    BeforeValidator(_switch),
    AfterValidator(_on_or_off),
    WithJsonSchema({"enum": ["on", "off", True, False]}),
]
