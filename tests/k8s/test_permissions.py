"""What docs/policies grants in a cluster is what the program says it takes."""

from __future__ import annotations

import pytest

from k8s.permissions import LOOK, RUN, Permission
from tests.k8s.roles import granted


@pytest.mark.parametrize(
    ("file", "taken"), [("launcher-role.yaml", RUN), ("doctor-role.yaml", LOOK)]
)
def test_a_role_grants_what_is_taken_and_nothing_more(
    file: str, taken: tuple[Permission, ...]
) -> None:
    wanted = [(one.verb, one.resource, one.group, one.everywhere) for one in taken]
    assert sorted(granted(file)) == sorted(wanted)


def test_a_permission_is_asked_about_as_the_api_wants_it() -> None:
    log, nodes = Permission("get", "pods/log"), Permission("list", "nodes", everywhere=True)
    assert log.asked("mine") == {
        "verb": "get",
        "group": "",
        "resource": "pods",
        "subresource": "log",
        "namespace": "mine",
    }
    assert nodes.asked("mine") == {"verb": "list", "group": "", "resource": "nodes"}
    assert Permission("delete", "jobs", "batch").words == "delete jobs.batch"
