"""The bucket policies of docs/policies: read, filled in, and asked what they allow; and a server that has users.

What is asked is what a client's request means to S3: an action, a resource, and the few facts of the request
that the policies' conditions speak of.
"""

from __future__ import annotations

import fnmatch
import json
import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from tests.rig.fault_proxy import Request
from tests.rig.s3 import ACCESS_KEY, SECRET_KEY, VERSION, S3Server, serving
from tests.rig.tools import go_tool

__all__ = ["ROLES", "Asked", "asked_of", "credentials", "decided", "merged", "serving_users"]

FOLDER = Path(__file__).resolve().parents[2] / "docs" / "policies"
ROLES = ("launcher", "gc", "stage", "server")
ARN = "arn:aws:s3:::"
_OF_A_BUCKET = {
    "uploads": "ListBucketMultipartUploads",
    "versioning": "GetBucketVersioning",
    "object-lock": "GetBucketObjectLockConfiguration",
    "encryption": "GetEncryptionConfiguration",
}


def merged(bucket: str, prefix: str, *, name: str = "serving") -> dict[str, Any]:
    """The one policy of a bucket, as the guide's commands put it together; a user's name is its key here."""
    parts = ["guard", *ROLES]
    files = [str(FOLDER / f"{part}.json") for part in parts]
    done = subprocess.run(
        ["jq", "-s", "{Version: .[0].Version, Statement: map(.Statement) | add}", *files],
        capture_output=True,
        text=True,
        check=True,
    )
    text = done.stdout.replace("BUCKET", bucket).replace("PREFIX", prefix).replace("NAME", name)
    for role in ROLES:
        text = text.replace(f"arn:aws:iam::ACCOUNT:role/{role.upper()}", role)
    policy = json.loads(text)
    assert isinstance(policy, dict)
    return policy


@dataclass(frozen=True)
class Asked:
    """One permission that a request needs."""

    role: str
    action: str
    resource: str
    facts: dict[str, str] = field(default_factory=dict, hash=False, compare=False)


def asked_of(request: Request, bucket: str) -> list[Asked]:
    """What a signed request needs, and of whom."""
    signed = re.search(r"Credential=([^/]+)/", request.header("authorization") or "")
    role = signed[1] if signed else "nobody"
    whole, thing = ARN + bucket, f"{ARN}{bucket}/{request.key}"
    query, method = request.query, request.method

    def ask(action: str, resource: str = thing, **facts: str) -> Asked:
        return Asked(
            role, f"s3:{action}", resource, {k.replace("_", "-"): v for k, v in facts.items()}
        )

    if not request.key:
        if "delete" in query:
            keys = re.findall(rb"<Key>([^<]*)</Key>", request.body)
            return [ask("DeleteObject", f"{whole}/{key.decode()}") for key in keys]
        for sub, action in _OF_A_BUCKET.items():
            if sub in query:
                return [ask(action, whole)]
        assert "list-type" in query, request.target
        return [ask("ListBucket", whole, prefix=query.get("prefix", ""))]
    if method in ("GET", "HEAD"):
        return [ask("ListMultipartUploadParts" if "uploadId" in query else "GetObject")]
    if method == "DELETE":
        return [ask("AbortMultipartUpload" if "uploadId" in query else "DeleteObject")]
    makes = "partNumber" not in query and "uploads" not in query
    facts = {"ObjectCreationOperation": str(makes).lower()}
    if request.header("if-none-match"):
        facts["if_none_match"] = "*"
    needed = [ask("PutObject", **facts)]
    source = request.header("x-amz-copy-source")
    if source:
        needed.append(ask("GetObject", ARN + unquote(source).lstrip("/")))
    return needed


def decided(policy: dict[str, Any], asked: Asked) -> bool:
    """Whether a policy allows it: some statement does, and none denies it."""
    effects = {s["Effect"] for s in policy["Statement"] if matches(s, asked)}
    return effects == {"Allow"}


def matches(statement: dict[str, Any], asked: Asked) -> bool:
    """Whether a statement speaks of this."""
    who = statement["Principal"]
    return (
        (who == "*" or who["AWS"] == asked.role)
        and asked.action in statement["Action"]
        and any(_like(asked.resource, pattern) for pattern in statement["Resource"])
        and all(_holds(*one, asked.facts) for one in statement.get("Condition", {}).items())
    )


def _like(text: str, pattern: str) -> bool:
    return fnmatch.fnmatchcase(text, pattern.replace("[", "[[]"))


def _holds(operator: str, wanted: dict[str, str], facts: dict[str, str]) -> bool:
    for key, value in wanted.items():
        fact = facts.get(key.removeprefix("s3:"))
        match operator:
            case "Null":
                good = (fact is None) == (value == "true")
            case "Bool":
                good = fact == value
            case "StringLikeIfExists":
                good = fact is None or _like(fact, value)
            case _:
                raise AssertionError(f"what does {operator} mean?")
        if not good:
            return False
    return True


def credentials(role: str) -> dict[str, str]:
    """A user of ``serving_users``."""
    return {"AWS_ACCESS_KEY_ID": role, "AWS_SECRET_ACCESS_KEY": f"the-secret-of-{role}"}


@contextmanager
def serving_users(folder: Path) -> Iterator[S3Server]:
    """A server with one user for each role, who may do nothing that no policy allows."""
    (folder / "iam").mkdir(parents=True)
    program = go_tool("github.com/versity/versitygw", "cmd/versitygw", VERSION)
    with serving(folder, "--iam-dir", str(folder / "iam")) as server:
        admin = ["admin", "-a", ACCESS_KEY, "-s", SECRET_KEY, "--er", server.endpoint]
        for role in ROLES:
            known = credentials(role)
            user = ["-a", known["AWS_ACCESS_KEY_ID"], "-s", known["AWS_SECRET_ACCESS_KEY"]]
            command = [str(program), *admin, "create-user", *user, "-r", "user"]
            subprocess.run(command, check=True, capture_output=True)
        yield server
