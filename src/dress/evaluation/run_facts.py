"""How a run came about, for the head of its report: command, code, data, amounts, and how to ask what it made."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dress.base.files import read_json
from dress.base.run_folder import short
from dress.config.graph import amount


def run_facts(run_dir: Path) -> dict[str, str | None]:
    """Name to fact, from `provenance.json`; empty where a run has none. Those that are not known are None."""
    file = run_dir / "provenance.json"
    if not file.exists():
        return {}
    known = read_json(file)
    stages = known.get("stages") or {}
    trained = [name for name, stage in stages.items() if stage.get("kind") == "train"]
    last = trained[-1] if trained else None
    resumed = known.get("resumed") or []
    return {
        "command": known.get("command"),
        "resumed": "; ".join(str(one.get("command")) for one in resumed) or None,
        "code": _code(known),
        "amounts": "; ".join(filter(None, (_amount(name, stage) for name, stage in stages.items()))) or None,
        "model": short(run_dir / "stages" / last) if last else None,
        "ask it": f"dress ask {short(run_dir)} picture.png" if last else None,
    }


def _code(known: Mapping[str, Any]) -> str | None:
    """Commit and versions."""
    git, versions = known.get("git") or {}, known.get("packages") or {}
    commit = git.get("commit")
    parts = [f"commit {commit[:12]}{' and changes' if git.get('dirty') else ''}"] if commit else []
    parts += [f"Python {known['python']}"] if known.get("python") else []
    parts += [f"{name} {version}" for name, version in versions.items() if version]
    return ", ".join(parts) or None


def _amount(name: str, stage: Mapping[str, Any]) -> str | None:
    """What a stage was given, in a few words."""
    count = f"{stage['records']:,} records" if stage.get("records") is not None else "records"
    data = f"{count} of {', '.join(stage.get('data') or ())}"
    if stage.get("kind") != "train":
        return f"{name}: {data}"
    length = amount(stage["steps"], stage.get("epochs"))
    return f"{name}: {data}, {length} of {stage['records_per_step']}, rate {stage['lr']:g}"
