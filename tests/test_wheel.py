"""What is installed: the wheel holds all that a run needs, and works in an empty folder."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest
import yaml
from conftest import ROOT, composed
from packaging.specifiers import SpecifierSet
from test_command_line import FAST, train

from dress.base.config_folder import CONFIGS
from dress.feedback.rubric import Rubric
from dress.run.composing import CommandLineError, arguments

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def run(command: list[str | Path], cwd: Path) -> subprocess.CompletedProcess[str]:
    """A command of somebody who has no checkout: nothing of ours on the path."""
    environment = {name: text for name, text in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    return subprocess.run(
        [str(word) for word in command], cwd=cwd, env=environment, capture_output=True, text=True, check=False,
        timeout=600,
    )  # fmt: skip


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built of a copy, since setuptools writes beside what it builds."""
    source = tmp_path_factory.mktemp("source")
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
    for name in ("src", "configs"):
        shutil.copytree(ROOT / name, source / name, ignore=ignored)
    (source / "configs" / "local" / "default.yaml").write_text("# @package _global_\nseed: 13\n")
    build = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--no-index", "-w", "dist", "."]
    done = run([*build], source)
    assert done.returncode == 0, done.stderr
    (file,) = (source / "dist").glob("*.whl")
    return file


@pytest.mark.slow
def test_the_wheel_holds_configs_prompts_and_templates_and_nothing_of_this_machine(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as file:
        names = set(file.namelist())
        (metadata,) = [file.read(name).decode() for name in names if name.endswith(".dist-info/METADATA")]
    ours = {
        f"dress/configs/{file.relative_to(CONFIGS)}" for file in CONFIGS.rglob("*.yaml") if "local" not in file.parts
    }
    assert (
        ours <= names and "dress/configs/prompts/vqa.yaml" in names and "dress/configs/rubrics/feedback.yaml" in names
    )
    modules = {str(file.relative_to(ROOT / "src")) for file in (ROOT / "src" / "dress").rglob("*.py")}
    assert modules <= names and "dress/report/templates/page.html" in names
    assert "hydra_plugins/dress_sweeper/__init__.py" in names and "hydra_plugins/__init__.py" not in names
    assert not [name for name in names if "local/" in name or name.startswith(("tests", "benchmarks", "src"))]
    assert f"Version: {PROJECT['version']}" in metadata and "# DRESS" in metadata
    assert "Project-URL: Paper, https://arxiv.org/abs/2311.10081" in metadata


@pytest.mark.slow
def test_it_works_in_an_empty_folder_of_a_fresh_environment(wheel: Path, tmp_path: Path) -> None:
    place, empty = tmp_path / "venv", tmp_path / "empty"
    venv.create(place, with_pip=False)
    empty.mkdir()
    python = place / "bin" / "python"
    own = Path(run([python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], tmp_path).stdout.strip())
    (own / "libraries.pth").write_text(sysconfig.get_path("purelib"))  # but for dress: its own .pth is not read there
    done = run([sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index", wheel], tmp_path)
    assert done.returncode == 0, done.stderr
    dress = place / "bin" / "dress"
    done = run([dress, "train", "experiment=dress_full", "debug=fast_dev_run", *FAST], empty)
    assert done.returncode == 0, done.stderr
    latest = empty / "logs" / "latest"
    assert (latest / "report.html").is_file() and (latest / "train.log").is_file()
    where = run([python, "-c", "import dress; print(dress.__file__)"], empty).stdout
    assert str(own) in where


def test_configs_of_the_working_folder_are_searched_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for group, text in (("experiment", "name: mine\nseed: 5\n"), ("scheduler", "")):
        (tmp_path / "configs" / group).mkdir(parents=True)
        (tmp_path / "configs" / group / "mine.yaml").write_text(f"# @package _global_\n{text}")
    rubric = yaml.safe_load((CONFIGS / "rubrics" / "feedback.yaml").read_text())
    (tmp_path / "configs" / "rubrics").mkdir()
    (tmp_path / "configs" / "rubrics" / "feedback.yaml").write_text(yaml.safe_dump(rubric | {"version": 99}))
    assert Rubric.load("feedback").version != 99
    monkeypatch.chdir(tmp_path)
    settings = composed("experiment=mine", "curriculum.run=[sft]")
    assert (settings.name, settings.seed, settings.scale) == ("mine", 5, "tiny")
    assert Rubric.load("feedback").version == 99
    done = train(tmp_path, "experiment=mien")
    assert done.returncode == 2 and "Did you mean mine?" in done.stderr and "dress_full" in done.stderr


def test_groups_of_the_working_folder_are_groups_like_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("house/none", "house/mine", "scheduler/none", "scale/own"):
        file = tmp_path / "configs" / f"{name}.yaml"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("# @package _global_\nseed: 3\n")
    with pytest.raises(CommandLineError, match="scheduler=false: expected one of constant, cosine, linear"):
        arguments(["scheduler=false"])
    monkeypatch.chdir(tmp_path)
    assert arguments(["scheduler=false", "house=null"]) == ["scheduler=none", "house=none"]
    assert arguments(["~house"]) == ["~house"]
    with pytest.raises(CommandLineError, match="house=true: expected one of mine, none"):
        arguments(["house=true"])
    assert "own" in train(tmp_path, "--help").stdout


def test_no_release_that_is_known_as_malicious_is_allowed() -> None:
    (allowed,) = [line.removeprefix("lightning") for line in PROJECT["dependencies"] if line.startswith("lightning")]
    assert [v for v in ("2.6.0", "2.6.1", "2.6.2", "2.6.3", "2.6.4") if v in SpecifierSet(allowed)] == [
        "2.6.0", "2.6.1", "2.6.4"
    ]  # fmt: skip


def test_the_paper_is_cited() -> None:
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert cited["version"] == PROJECT["version"] and f"## {PROJECT['version']}" in (ROOT / "CHANGELOG.md").read_text()
    names = [f"{one['given-names']} {one['family-names']}" for one in cited["preferred-citation"]["authors"]]
    assert names == ["Yangyi Chen", "Karan Sikka", "Michael Cogswell", "Heng Ji", "Ajay Divakaran"]
    assert "2311.10081" in cited["preferred-citation"]["url"]
