"""pyproject.toml, requirements.txt and environment.yml say the same, so they cannot drift."""

from __future__ import annotations

import os
import re
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

pytestmark = pytest.mark.fast

REPOSITORY = Path(__file__).resolve().parent.parent
PYPROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
LOCK = (REPOSITORY / "requirements.txt").read_text()
ENVIRONMENT = yaml.safe_load((REPOSITORY / "environment.yml").read_text())
DIRECT = [Requirement(line) for line in PYPROJECT["project"]["dependencies"]]
PYTHONS = SpecifierSet(PYPROJECT["project"]["requires-python"])
# What the course is written for.
VERSIONS = {
    "ray": "==2.60.0",
    "torch": "==2.14.1",
    "torchvision": "==0.29.1",
    "transformers": "==5.23.*",
    "datasets": "==5.2.*",
    "accelerate": "==1.15.*",
    "deepspeed": "==0.19.8",
    "jupyterlab": "==4.6.*",
    "nbmake": "==1.5.5",
}
SUPPORTED = ("3.11", "3.12", "3.13")
LINUX = {"sys_platform": "linux", "platform_machine": "x86_64", "platform_system": "Linux", "os_name": "posix"}


def pins(lock: str) -> dict[str, list[tuple[Requirement, int]]]:
    """Name -> its pins (one for each marker), each with the number of its hashes."""
    found: dict[str, list[tuple[Requirement, int]]] = {}
    for entry in re.split(r"(?m)^(?=[A-Za-z])", lock)[1:]:
        line = entry.splitlines()[0].rstrip("\\ ")
        requirement = Requirement(line)
        hashes = len(re.findall(r"--hash=sha256:[0-9a-f]{64}\b", entry))
        found.setdefault(canonicalize_name(requirement.name), []).append((requirement, hashes))
    return found


def version(requirement: Requirement) -> Version:
    (specifier,) = requirement.specifier
    assert specifier.operator == "==", f"{requirement} is not pinned to one version"
    return Version(specifier.version)


def for_python(name: str, python: str) -> list[Requirement]:
    """The pins of a package that hold on Linux with that Python."""
    machine = LINUX | {"python_version": python, "python_full_version": f"{python}.0"}
    return [r for r, _ in pins(LOCK).get(name, []) if r.marker is None or r.marker.evaluate(machine)]


def drift(direct: list[Requirement], lock: str) -> list[str]:
    """What is wrong between the ranges and the pins."""
    problems, locked = [], pins(lock)
    for requirement in direct:
        name = canonicalize_name(requirement.name)
        if name not in locked:
            problems.append(f"{name} is in pyproject.toml, but not in requirements.txt: run 'make lock'.")
        for pin, _ in locked.get(name, []):
            if version(pin) not in requirement.specifier:
                problems.append(f"{pin} is outside of the range {requirement.specifier}: run 'make lock'.")
    return problems


def test_pins_are_inside_the_ranges() -> None:
    assert drift(DIRECT, LOCK) == []


def test_drift_is_found() -> None:
    assert drift([Requirement("no-such-package>=1")], LOCK) == [
        "no-such-package is in pyproject.toml, but not in requirements.txt: run 'make lock'."
    ]
    assert "outside of the range" in drift([Requirement("ray>=3")], LOCK)[0]


def test_every_range_has_both_ends_or_belongs_to_a_tool() -> None:
    # A new ruff or uv cannot break a lesson; a new major version of anything else can.
    tools = {"ruff", "uv"}
    for requirement in DIRECT:
        operators = {specifier.operator for specifier in requirement.specifier}
        assert ">=" in operators, f"{requirement} has no lower end"
        assert requirement.name in tools or "<" in operators, f"{requirement} has no upper end"


def test_every_pin_has_hashes() -> None:
    locked = pins(LOCK)
    assert len(locked) > 100
    assert [str(pin) for entries in locked.values() for pin, hashes in entries if not hashes] == []
    for entries in locked.values():
        for pin, _ in entries:
            version(pin)


def test_lock_says_how_it_is_made() -> None:
    assert "make lock" in "\n".join(LOCK.splitlines()[:3])


def test_lock_names_no_index_and_no_file() -> None:
    found = re.findall(r"https?:|--(?:extra-)?index-url|--find-links|--trusted-host|file:|git\+| @ ", LOCK)
    assert found == [], "requirements.txt must install from wherever the reader's pip installs"


@pytest.mark.parametrize("name", VERSIONS)
def test_versions_of_the_course(name: str) -> None:
    (requirement,) = [r for r in DIRECT if canonicalize_name(r.name) == name]
    wanted = SpecifierSet(VERSIONS[name])
    found = [version(pin) for pin, _ in pins(LOCK)[name]]
    assert found and all(v in wanted and v in requirement.specifier for v in found), f"{name} is pinned to {found}"


def test_ray_comes_with_the_libraries_of_the_course() -> None:
    (ray,) = [r for r in DIRECT if r.name == "ray"]
    assert ray.extras == {"default", "data", "train", "tune", "serve"}


@pytest.mark.parametrize("python", SUPPORTED)
def test_supported_pythons(python: str) -> None:
    assert Version(f"{python}.0") in PYTHONS
    for requirement in DIRECT:
        found = for_python(canonicalize_name(requirement.name), python)
        assert len(found) == 1, f"{requirement.name} has {len(found)} pins on Linux with Python {python}"


@pytest.mark.parametrize("python", ["3.10", "3.14"])
def test_other_pythons_are_shut_out(python: str) -> None:
    # Ray 2.60 has no wheels for them.
    assert Version(f"{python}.0") not in PYTHONS


def test_conda_installs_the_same() -> None:
    listed = ENVIRONMENT["dependencies"]
    names = [re.split(r"[=<> ]", entry)[0] for entry in listed if isinstance(entry, str)]
    (python,) = [entry for entry in listed if isinstance(entry, str) and entry.startswith("python")]
    assert Version(python.partition("=")[2].lstrip("=") + ".0") in PYTHONS
    assert "pip" in names
    # Everything else comes from the lock: no package of the course has a second version here.
    assert not {canonicalize_name(r.name) for r in DIRECT} & set(names)
    (pip,) = [entry["pip"] for entry in listed if isinstance(entry, dict)]
    assert pip == ["--requirement requirements.txt"]  # pip reads these lines as a requirements file


def test_all_packages_of_helpers_are_installed() -> None:
    folders = {path.parent for path in (REPOSITORY / "helpers").rglob("*.py")}
    expected = sorted(".".join(folder.relative_to(REPOSITORY).parts) for folder in folders)
    assert sorted(PYPROJECT["tool"]["setuptools"]["packages"]) == expected


def test_pyproject_says_the_same_as_the_tools() -> None:
    assert Version(PYPROJECT["tool"]["ruff"]["target-version"].replace("py3", "3.")) in PYTHONS


def test_binder_installs_the_helpers_too() -> None:
    # In environment.yml it cannot stand: pip refuses an editable package beside hashes.
    script = REPOSITORY / "postBuild"
    assert os.access(script, os.X_OK), "postBuild is not executable"
    assert "pip install --no-deps --editable ." in script.read_text()
