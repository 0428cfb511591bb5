"""Run the quick tests with newer packages than constraints.txt pins, and print what breaks.

Installs into .venv-canary the newest versions that pyproject.toml allows and the next minor version of torch, Prefect
and MLflow. A version that cannot be installed together with the others is reported and left out.
"""

import argparse
import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterable
from pathlib import Path

FOLDER = Path(".venv-canary")
PYTHON = FOLDER / "bin" / "python"
NEXT_MINOR = ("torch", "prefect", "mlflow")
MAX_LINE_WIDTH = 120  # pip lists every version that it has ignored in one line


def requirements() -> dict[str, str]:
    """Return name -> requirement of the dependencies in pyproject.toml, including those of the extra `dev`."""
    project = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    lines = [*project["dependencies"], *extras["dev"], *extras["quantized"], *extras["redis"]]
    names = {line: re.split(r"[\[<>=]", line)[0] for line in lines}
    return {name: line for line, name in names.items() if name != project["name"]}


def next_minor(requirement: str) -> str:
    """Return the requirement of the next minor version: "torch>=2.13,<2.14" -> "torch>=2.14,<2.15"."""
    match = re.fullmatch(r"(.+?)>=.*,<(\d+)\.(\d+)", requirement)
    assert match is not None, f"{requirement}: expected a lower bound and an upper bound such as <2.14"
    name, major, minor = match.groups()
    return f"{name}>={major}.{minor},<{major}.{int(minor) + 1}"


def install(packages: Iterable[str], *options: str) -> str:
    """Install `packages`. Return an empty string, or the last errors of pip if they do not resolve."""
    command = [str(PYTHON), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--upgrade", *options]
    process = subprocess.run([*command, *packages], capture_output=True, text=True)
    lines = process.stderr.splitlines()
    errors = [line[:MAX_LINE_WIDTH] for line in lines if line.startswith("ERROR") and "Ignored" not in line]
    return "\n    ".join(errors[-3:] or ["pip ended without a message"]) if process.returncode else ""


def changes() -> list[str]:
    """Return the packages whose version differs from constraints.txt."""
    pins = dict(re.findall(r"^([\w.-]+)==(\S+)", Path("constraints.txt").read_text(encoding="utf-8"), re.MULTILINE))
    command = [str(PYTHON), "-m", "pip", "list", "--format=json", "--disable-pip-version-check"]
    packages = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
    versions = {re.sub(r"[-_.]+", "-", package["name"]).lower(): package["version"] for package in packages}
    pinned = {re.sub(r"[-_.]+", "-", name).lower(): version for name, version in pins.items()}
    return [f"{name} {pinned.get(name, '(new)')} -> {v}" for name, v in versions.items() if pinned.get(name) != v]


def main() -> int:
    """Resolve, install and test; return the exit code of pytest."""
    argparse.ArgumentParser(
        prog="python -m tests.canary", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_args()
    subprocess.run([sys.executable, "-m", "venv", "--clear", FOLDER], check=True)
    packages = requirements()
    if message := install(packages.values(), "--dry-run"):
        print(f"the newest versions that pyproject.toml allows do not resolve:\n    {message}")
        return 1
    for name in NEXT_MINOR:
        candidate = packages | {name: next_minor(packages[name])}
        message = install(candidate.values(), "--dry-run")
        print(f"{candidate[name]} does not resolve:\n    {message}" if message else f"{candidate[name]} resolves")
        packages = packages if message else candidate
    # The environment is new, so that pip chooses the newest versions as in the trials above.
    if message := install(packages.values()):
        print(f"the installation failed:\n    {message}")
        return 1
    print("changed packages:", *changes(), sep="\n    ", flush=True)
    return subprocess.run([str(PYTHON), "-m", "pytest", "-m", "not slow", "-rfE", "--tb=line"]).returncode


if __name__ == "__main__":
    sys.exit(main())
