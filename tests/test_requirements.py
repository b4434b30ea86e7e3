"""The lock, and every other way in: conda, containers, uv and CI take the same packages, so they cannot drift."""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import subprocess
import sys
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
    assert ray.extras == {"default", "data", "train", "tune", "serve", "rllib"}


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


def make_targets() -> set[str]:
    """What `make` can be asked for; with the stamp of the environment."""
    makefile = (REPOSITORY / "Makefile").read_text()
    return set(re.search(r"(?m)^\.PHONY:(.*)$", makefile).group(1).split()) | {".venv/.ready"}


def unknown_targets(command: str) -> list[str]:
    """The words after `make` in a line of shell that are neither its targets nor variables."""
    words = [part.split()[1:] for part in re.split(r"&&|;|\|", command) if part.split()[:1] == ["make"]]
    return [word for part in words for word in part if word not in make_targets() and "=" not in word]


def test_unknown_targets_are_found() -> None:
    assert unknown_targets("make .venv/.ready && rm -rf x && make lab PORT=1") == []
    assert unknown_targets("true; make setup lab") == ["setup"]


def test_conda_brings_python_and_make_brings_the_rest() -> None:
    listed = ENVIRONMENT["dependencies"]
    names = [re.split(r"[=<> ]", entry)[0] for entry in listed]
    assert names == ["python", "make"]
    assert Version(listed[0].partition("=")[2] + ".0") in PYTHONS
    commands = re.search(r"(?m)^# (conda env create .*)$", (REPOSITORY / "environment.yml").read_text()).group(1)
    assert commands.endswith("&& make lab") and unknown_targets(commands) == []
    assert f"conda activate {ENVIRONMENT['name']}" in commands


# --- containers -------------------------------------------------------------------------------------------------------


def instructions() -> list[tuple[str, str]]:
    """The Dockerfile as (instruction, rest of the line)."""
    lines = (REPOSITORY / "Dockerfile").read_text().splitlines()
    pairs = [line.partition(" ") for line in lines if line and not line.startswith("#")]
    return [(word, rest) for word, _, rest in pairs]


def of(name: str) -> list[str]:
    return [rest for word, rest in instructions() if word == name]


def test_container_is_made_by_make() -> None:
    assert {word for word, _ in instructions()} == {"FROM", "RUN", "WORKDIR", "USER", "COPY", "EXPOSE", "CMD"}
    image, *_ = of("FROM")[0].partition(" ")
    assert Version(re.fullmatch(r"python:([\d.]+)-slim", image).group(1) + ".0") in PYTHONS
    assert [command for command in of("RUN") if "make .venv/.ready" in command]
    assert [unknown_targets(command) for command in of("RUN")] == [[]] * len(of("RUN"))
    assert not re.search(r"pip|uv |https?:", "".join(of("RUN"))), "packages come from the lock, through make"
    command = json.loads(of("CMD")[0])
    assert command[:2] == ["make", "lab"] and unknown_targets(" ".join(command[:2])) == []


def test_container_copies_what_its_set_up_reads() -> None:
    ready = [word for word, _ in instructions()].index("CMD")
    order = instructions()[:ready]
    set_up = next(i for i, (word, rest) in enumerate(order) if word == "RUN" and ".venv/.ready" in rest)
    copied = {name for word, rest in order[:set_up] if word == "COPY" for name in rest.split()[1:-1]}
    assert all((REPOSITORY / name).exists() for name in copied)
    needed = {
        PYPROJECT["project"]["readme"],
        *(name.split(".")[0] for name in PYPROJECT["tool"]["setuptools"]["packages"]),
    }
    assert needed | {"Makefile", "pyproject.toml", "requirements.txt", "tools"} <= copied
    # And not what belongs to the machine that builds it.
    assert {".venv", "work", ".git"} <= set((REPOSITORY / ".dockerignore").read_text().split())


def test_container_lets_in_only_its_user() -> None:
    order = [word for word, _ in instructions()]
    assert of("USER") == ["learner"] and order.index("USER") < order.index("CMD")
    assert "useradd --create-home learner" in of("RUN")
    assert "token" not in of("CMD")[0].lower() and "--allow-root" not in of("CMD")[0]
    for file in ("Dockerfile", "README.md"):
        run = re.findall(r"docker run .*", (REPOSITORY / file).read_text())
        assert run, f"{file} does not say how the container is started"
        for line in run:
            assert (
                "-p 127.0.0.1:8888:8888" in line
                and "--shm-size=4g" in line
                and "-v ray-course-work:/course/work" in line
            )


def test_devcontainer_is_the_same_machine_and_set_up() -> None:
    found = json.loads((REPOSITORY / ".devcontainer" / "devcontainer.json").read_text())
    build = found["build"]
    dockerfile = (REPOSITORY / ".devcontainer" / build["dockerfile"]).resolve()
    assert dockerfile == REPOSITORY / "Dockerfile"
    assert any(line.endswith(f" AS {build['target']}") for line in of("FROM"))
    assert found["remoteUser"] in of("USER") and "--shm-size=4g" in found["runArgs"]
    assert found["postCreateCommand"] == "make work" and unknown_targets(found["postCreateCommand"]) == []


# --- uv and CI --------------------------------------------------------------------------------------------------------


def test_uv_run_takes_the_environment_as_it_is(tmp_path: Path) -> None:
    shutil.copy(REPOSITORY / "pyproject.toml", tmp_path)
    (tmp_path / ".venv").symlink_to(sys.prefix)
    uv = Path(sys.executable).with_name("uv")
    # Without a network: whatever would be resolved or installed fails.
    command = [str(uv), "run", "--offline", "python", "-c", "import sys, ray; print(sys.prefix)"]
    own = {name: value for name, value in os.environ.items() if not name.startswith(("UV_", "VIRTUAL_ENV"))}
    done = subprocess.run(command, cwd=tmp_path, env=own, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert Path(done.stdout.strip()).resolve() == Path(sys.prefix).resolve()
    assert sorted(path.name for path in tmp_path.iterdir()) == [".venv", "pyproject.toml"], "uv made a lock of its own"


def test_ci_runs_every_python() -> None:
    jobs = yaml.safe_load((REPOSITORY / ".github" / "workflows" / "ci.yml").read_text())["jobs"]
    assert tuple(jobs["pinned"]["strategy"]["matrix"]["python"]) == SUPPORTED
    versions = [step["with"]["python-version"] for step in jobs["pinned"]["steps"] if "with" in step]
    assert versions == ["${{ matrix.python }}"]
    weekly = [step.get("run", "") for step in jobs["everything"]["steps"]]
    assert any("test_package_index_still_has_what_the_lock_says" in command for command in weekly)
    for job in jobs.values():
        commands = [step["run"] for step in job["steps"] if "run" in step]
        assert [unknown_targets(command) for command in commands] == [[]] * len(commands)


def test_ci_runs_on_what_most_laptops_have() -> None:
    """The two variables make any processor one without fast bfloat16, for PyTorch and for oneDNN."""
    jobs = yaml.safe_load((REPOSITORY / ".github" / "workflows" / "ci.yml").read_text())["jobs"]
    limited = {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2"}
    (job,) = [job for job in jobs.values() if limited.items() <= job.get("env", {}).items()]
    assert job["steps"][-1] == {"run": "bash .ci/run"}, "the same command as everywhere, and the last one"


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="Only x86-64 has AVX.")
def test_the_two_variables_limit_the_processor() -> None:
    limited = {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2"}
    code = "import torch; print(torch.backends.cpu.get_cpu_capability())"
    done = subprocess.run([sys.executable, "-c", code], env={**os.environ, **limited}, capture_output=True, text=True)
    assert done.stdout.strip() == "AVX2", done.stderr


def test_readme_names_the_versions_of_the_lock() -> None:
    (line,) = re.findall(r"(?m)^.*Last run with .*$", (REPOSITORY / "README.md").read_text())
    for name, title in (("ray", "Ray"), ("torch", "PyTorch")):
        found = {str(version(pin)) for pin, _ in pins(LOCK)[name]}
        assert {f"{title} {v}" for v in found} == set(re.findall(rf"{title} [\d.]*\d", line))


def test_all_packages_of_helpers_are_installed() -> None:
    # JupyterLab keeps copies of the files that somebody opened in hidden folders.
    files = [path for path in (REPOSITORY / "helpers").rglob("*.py") if ".ipynb_checkpoints" not in path.parts]
    folders = {path.parent for path in files}
    expected = sorted(".".join(folder.relative_to(REPOSITORY).parts) for folder in folders)
    assert sorted(PYPROJECT["tool"]["setuptools"]["packages"]) == expected


def test_pyproject_says_the_same_as_the_tools() -> None:
    assert Version(PYPROJECT["tool"]["ruff"]["target-version"].replace("py3", "3.")) in PYTHONS


def test_ray_starts_its_processes_without_compiling_a_grammar() -> None:
    """Ray imports jsonschema in every process, and that imports this package if it is there: 1.3 s each time."""
    assert "rfc3987-syntax" not in pins(LOCK)
