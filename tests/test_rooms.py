"""The rooms of the house: imports go down only, also late ones."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

SRC = Path(__file__).resolve().parents[1] / "src"
LEVELS = (
    ("base",),
    ("record", "rater", "attacker", "judgement", "config"),
    ("coco",),
    ("data", "dialogue", "kernels"),
    ("model", "phases", "sources"),
    ("objectives", "worlds", "llm"),
    ("rollout",),
    ("feedback", "serving"),
    ("report",),
    ("evaluation", "inspection", "exports", "attacks"),
    ("train", "chat"),
    ("run",),
)
"""From the lowest; a room may import those below it, and those beside it as far as that makes no circle."""
MODULE = re.compile(r"dress(?:\.[a-z_]+)+")
HEIGHT = {room: height for height, rooms in enumerate(LEVELS) for room in rooms}


def arrows(folder: Path) -> Iterator[tuple[str, str, str]]:
    """Importing module, line, and imported module, of every import of dress below a folder; also late ones."""
    modules = {name_of(file, folder) for file in folder.rglob("*.py")}
    for file in sorted(folder.rglob("*.py")):
        module = name_of(file, folder)
        if module in ("dress", "dress.__main__"):  # what it offers is imported lazily; an entry point
            continue
        nodes = list(ast.walk(ast.parse(file.read_text(encoding="utf-8"))))
        settings = {id(value) for node in nodes if isinstance(node, ast.Dict) for value in target_values(node)}
        for node in nodes:
            for target in targets(node) if id(node) not in settings else []:
                if target.split(".")[0] == "dress":
                    while target not in modules:
                        target = target.rpartition(".")[0]
                    if target != "dress":
                        yield module, f"{file.name}:{getattr(node, 'lineno', 0)}", target


def name_of(file: Path, folder: Path) -> str:
    return ".".join(file.relative_to(folder).with_suffix("").parts).removesuffix(".__init__")


def targets(node: ast.AST) -> list[str]:
    if isinstance(node, ast.ImportFrom) and node.module and not node.level:
        return [f"{node.module}.{alias.name}" for alias in node.names]
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.Constant) and isinstance(node.value, str) and MODULE.fullmatch(node.value):
        return [node.value]  # imported by name
    return []


def target_values(node: ast.Dict) -> list[ast.expr]:
    """What `_target_` is in a mapping: the value of a setting, which whoever builds it imports."""
    keys = [getattr(key, "value", getattr(key, "id", None)) for key in node.keys]
    return [value for key, value in zip(keys, node.values, strict=True) if key in ("_target_", "TARGET")]


def room_of(module: str) -> str | None:
    """The room of a module of dress; None for an entry point, which stands above all of them."""
    parts = module.split(".")
    return parts[1] if parts[0] == "dress" else None


def climbs(folder: Path) -> list[str]:
    """Imports that go up, or to a room that has no place in the order."""
    lines = []
    for module, line, target in arrows(folder):
        room, below = room_of(module), room_of(target)
        if (room is not None and room not in HEIGHT) or below not in HEIGHT:
            lines.append(f"{line} {module} -> {target}: no room of LEVELS")
        elif room is not None and HEIGHT[below] > HEIGHT[room]:
            lines.append(f"{line} {module} -> {target}")
    return lines


def circles(edges: dict[str, set[str]]) -> list[list[str]]:
    """Groups of nodes that reach one another (Tarjan's strongly connected components of more than one node)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    groups: list[list[str]] = []

    def visit(node: str) -> None:
        index[node] = low[node] = len(index)
        stack.append(node)
        for other in sorted(edges.get(node, ())):
            if other not in index:
                visit(other)
                low[node] = min(low[node], low[other])
            elif other in stack:
                low[node] = min(low[node], index[other])
        if low[node] == index[node]:
            at = stack.index(node)
            if len(stack) - at > 1:
                groups.append(sorted(stack[at:]))
            del stack[at:]

    for node in sorted(edges):
        if node not in index:
            visit(node)
    return groups


def edges_of(folder: Path, rooms: bool) -> dict[str, set[str]]:
    edges: dict[str, set[str]] = {}
    for module, _, target in arrows(folder):
        source, other = (room_of(module) or f"{module}.py", room_of(target)) if rooms else (module, target)
        if other and source != other:
            edges.setdefault(source, set()).add(other)
    return edges


def test_imports_go_down_only() -> None:
    assert climbs(SRC) == []


@pytest.mark.parametrize("rooms", [True, False])
def test_there_is_no_circle(rooms: bool) -> None:
    assert circles(edges_of(SRC, rooms)) == []


def test_an_arrow_up_and_a_late_circle_are_seen(tmp_path: Path) -> None:
    for room, text in {
        "base": "def f():\n    from dress.data import shards\n",
        "data": "import dress.base.files\n",
    }.items():
        (tmp_path / "dress" / room).mkdir(parents=True)
        (tmp_path / "dress" / room / "__init__.py").touch()
        (tmp_path / "dress" / room / ("files.py" if room == "base" else "shards.py")).write_text(text)
    (tmp_path / "dress" / "__init__.py").touch()
    (tmp_path / "dress" / "base" / "named.py").write_text(
        'MODULE = "dress.data.shards"\nX = {"_target_": "dress.data.shards"}'
    )
    assert "named.py:1 dress.base.named -> dress.data.shards" in climbs(tmp_path) and len(climbs(tmp_path)) == 2
    (tmp_path / "dress" / "base" / "named.py").unlink()
    assert climbs(tmp_path) == ["files.py:2 dress.base.files -> dress.data.shards"]
    assert circles(edges_of(tmp_path, True)) == [["base", "data"]]
    assert circles(edges_of(tmp_path, False)) == [["dress.base.files", "dress.data.shards"]]


def test_every_room_has_its_line_on_the_page() -> None:
    """docs/code.md shows each room once, and none that is not there."""
    page = (SRC.parent / "docs" / "code.md").read_text(encoding="utf-8")
    lines = [line for line in page.splitlines() if line.startswith("| `")]
    named = [
        name.removesuffix("/").removesuffix(".py") for line in lines for name in line.split("|")[1].split("`")[1::2]
    ]
    assert sorted(named) == sorted([*HEIGHT, "src/*"])


def test_an_entry_point_holds_only_its_main() -> None:
    """Nothing that anybody would want to import stands in src/*.py."""
    for file in SRC.glob("*.py"):
        names = [
            node.name for node in ast.parse(file.read_text()).body if isinstance(node, ast.FunctionDef | ast.ClassDef)
        ]
        assert names == ["main"], file
