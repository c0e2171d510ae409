"""The manifest that docs/scale.md shows: YAML that names what a RayJob has, and the Ray that is pinned."""

import re
from typing import Any

from pipeline.settings import yaml
from tests.conftest import ROOT

MANIFEST = ROOT / "docs" / "kubernetes" / "rayjob.yaml"


def test_the_manifest_is_a_ray_job_that_runs_a_stage() -> None:
    job: dict[str, Any] = yaml.load(MANIFEST).values
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    assert re.fullmatch(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?", job["metadata"]["name"])
    stage = re.search(r"python -m (stages\.\w+)", job["spec"]["entrypoint"])
    assert stage is not None
    assert (ROOT / f"{stage[1].replace('.', '/')}.py").is_file()
    cluster = job["spec"]["rayClusterSpec"]
    pinned = re.search(r"^ray==(\S+)", (ROOT / "requirements-ray.lock").read_text(encoding="utf-8"), re.MULTILINE)
    assert pinned is not None
    assert cluster["rayVersion"] == pinned[1]
    assert cluster["authOptions"] == {"mode": "token"}


def test_every_pod_has_the_project_the_store_and_bounds_and_no_secret() -> None:
    cluster = yaml.load(MANIFEST).values["spec"]["rayClusterSpec"]
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    images = set()
    for group in groups:
        [container] = group["template"]["spec"]["containers"]
        images.add(container["image"])
        volumes = {volume["name"] for volume in group["template"]["spec"]["volumes"]}
        assert {mount["name"] for mount in container["volumeMounts"]} <= volumes
        names = {variable["name"]: variable["value"] for variable in container["env"]}
        assert names["SIGHTREAD_STORE"].startswith("/shared/")
        assert not [name for name in names if "KEY" in name or "TOKEN" in name or "PASSWORD" in name]
        assert set(container["resources"]["limits"]) >= {"cpu", "memory"}
        assert container["workingDir"] == "/sightread"
    assert len(images) == 1, "one image: the same packages, Python and Ray on all nodes"
