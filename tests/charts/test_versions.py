"""Every Kubernetes that is said to be supported takes what is made for it, by its own schemas."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from kubernetes_validate import utils

from launcher.doctor_cluster import _NATIVE_SIDECARS
from tests.charts.golden import CASES
from tests.charts.golden import FOLDER as RENDERED
from tests.rig.helm import CHARTS

_ROOT = Path(__file__).parents[2]
#: The oldest on which a launcher's Jobs run: ``docs/guides/kubernetes.md``, and what doctor says.
_OLDEST = "1.29"
_VERSIONS = sorted({utils.major_minor(one) for one in utils.all_versions()})
#: Of the Prometheus operator, not of Kubernetes.
_OTHERS = ("PodMonitor", "PrometheusRule")
_BY_HAND = [*(_ROOT / "tests" / "golden" / "jobs").iterdir(), *_ROOT.glob("docs/policies/*.yaml")]


@pytest.fixture(autouse=True)
def read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A version's schemas are a few MB."""
    monkeypatch.setattr(utils, "schema_contents", _schema_contents)


_schema_contents = cache(utils.schema_contents)


def oldest(chart: str) -> str:
    """Of the versions that a chart takes."""
    about = yaml.safe_load((CHARTS / chart / "Chart.yaml").read_text())
    return str(about["kubeVersion"]).removeprefix(">=").removesuffix(".0-0")


def since(version: str) -> list[str]:
    return _VERSIONS[_VERSIONS.index(version) :]


def objects(file: Path) -> list[dict[str, Any]]:
    found = [one for one in yaml.safe_load_all(file.read_text()) if one]
    return [one for one in found if one["kind"] not in _OTHERS]


@pytest.mark.parametrize("case", CASES)
def test_a_rendering(case: str) -> None:
    made = objects(RENDERED / f"{case}.yaml")
    assert made
    for version in since(oldest(CASES[case])):
        for one in made:
            # Strict: a field that a version does not know is one that it would drop.
            assert kubernetes_validate.validate(one, version, strict=True) == version


@pytest.mark.parametrize("file", _BY_HAND, ids=lambda file: file.name)
def test_a_job_or_a_policy(file: Path) -> None:
    for version in since(_OLDEST):
        for one in objects(file):
            assert kubernetes_validate.validate(one, version, strict=True) == version


def test_the_oldest_is_the_oldest() -> None:
    """One before it does not know our admission policies; what doctor takes is what the chart takes."""
    (policy, *_) = objects(RENDERED / "admin.yaml")
    with pytest.raises(kubernetes_validate.SchemaNotFoundError):
        kubernetes_validate.validate(policy, "1.29", strict=True)
    assert oldest("distill-ledger-admin") == "1.30"
    assert oldest("distill-ledger") == _OLDEST
    assert ".".join(map(str, _NATIVE_SIDECARS)) == _OLDEST


def test_a_field_that_a_version_lacks_is_found() -> None:
    (job, *_) = objects(_ROOT / "tests" / "golden" / "jobs" / "gpu-retrain.yaml")
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(job, "1.27", strict=True)
