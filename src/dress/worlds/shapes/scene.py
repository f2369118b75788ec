"""Scenes: two to four coloured shapes on a 3 x 3 grid, and how they are drawn."""

from __future__ import annotations

import hashlib
import io
import random
from dataclasses import dataclass
from typing import Any

from PIL import Image, ImageDraw

COLOURS = {
    "red": (220, 40, 40),
    "green": (40, 180, 60),
    "blue": (50, 80, 230),
    "yellow": (235, 215, 50),
    "purple": (160, 50, 200),
    "white": (240, 240, 240),
}
SHAPES = ("circle", "square", "triangle", "cross")
PLACES = ("northwest", "north", "northeast", "west", "centre", "east", "southwest", "south", "southeast")
CELL = 16
SIZE = 3 * CELL
"""Width and height of a scene in pixels."""

_PALETTE = tuple(COLOURS)


@dataclass(frozen=True, order=True)
class Thing:
    """One shape in its cell (0-8, reading order)."""

    cell: int
    colour: str
    shape: str

    @property
    def label(self) -> str:
        """Its name: colour and shape."""
        return f"{self.colour} {self.shape}"

    @property
    def place(self) -> str:
        """The name of its cell."""
        return PLACES[self.cell]

    @property
    def box(self) -> tuple[float, float, float, float]:
        """x0, y0, x1, y1 as fractions of the picture."""
        row, column = divmod(self.cell, 3)
        return column / 3, row / 3, (column + 1) / 3, (row + 1) / 3

    @property
    def neighbour(self) -> str:
        """What usually stands beside such a thing: the label a careless teacher takes for granted."""
        colour = _PALETTE[(_PALETTE.index(self.colour) + 1) % len(_PALETTE)]
        shape = SHAPES[(SHAPES.index(self.shape) + 1) % len(SHAPES)]
        return f"{colour} {shape}"


@dataclass(frozen=True)
class Scene:
    """The scene graph: things in reading order, no two of one label."""

    things: tuple[Thing, ...]

    @classmethod
    def draw_at_random(cls, rng: random.Random) -> Scene:
        """Two to four things; the first one's usual neighbour is there more often than chance."""
        cells = rng.sample(range(len(PLACES)), rng.randint(2, 4))
        labels: list[str] = []
        for _ in cells:
            label = f"{rng.choice(_PALETTE)} {rng.choice(SHAPES)}"
            while label in labels:
                label = f"{rng.choice(_PALETTE)} {rng.choice(SHAPES)}"
            labels.append(label)
        things = [Thing(cell, *label.split()) for cell, label in zip(sorted(cells), labels, strict=True)]
        usual = things[0].neighbour
        if rng.random() < 0.3 and usual not in labels:
            things[-1] = Thing(things[-1].cell, *usual.split())
        return cls(tuple(things))

    @property
    def labels(self) -> tuple[str, ...]:
        """Of all things, in reading order."""
        return tuple(thing.label for thing in self.things)

    @property
    def fingerprint(self) -> str:
        """Equal for equal scene graphs, whatever the pixels."""
        text = ";".join(f"{thing.cell} {thing.label}" for thing in self.things)
        return hashlib.sha256(text.encode()).hexdigest()

    @property
    def held_out(self) -> bool:
        """Whether this scene graph belongs to evaluation (one in eight) and is never trained on."""
        return int(self.fingerprint[:8], 16) % 8 == 0

    def at(self, place: str) -> Thing | None:
        """The thing in a cell; None where it is empty."""
        return next((thing for thing in self.things if thing.place == place), None)

    def named(self, label: str) -> Thing | None:
        """The thing with a label; None where there is none."""
        return next((thing for thing in self.things if thing.label == label), None)

    def to_json(self) -> list[dict[str, Any]]:
        """As a record keeps it under `extra.scene`."""
        return [{"cell": t.cell, "colour": t.colour, "shape": t.shape} for t in self.things]

    @classmethod
    def from_json(cls, data: list[dict[str, Any]]) -> Scene:
        """The scene of `to_json`.

        Raises:
            KeyError: a field is missing.
        """
        return cls(tuple(Thing(item["cell"], item["colour"], item["shape"]) for item in data))


def draw(scene: Scene, rng: random.Random) -> bytes:
    """The picture as PNG bytes, 48 x 48 RGB; size, place within the cell and background vary."""
    ground = rng.randint(10, 60)
    picture = Image.new("RGB", (SIZE, SIZE), (ground, ground, ground))
    pen = ImageDraw.Draw(picture)
    for thing in scene.things:
        row, column = divmod(thing.cell, 3)
        radius = rng.choice((6, 7))
        x = column * CELL + CELL // 2 + rng.randint(-1, 1)
        y = row * CELL + CELL // 2 + rng.randint(-1, 1)
        colour = tuple(max(0, min(255, c + rng.randint(-20, 15))) for c in COLOURS[thing.colour])
        _draw_shape(pen, thing.shape, x, y, radius, colour)
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG")
    return buffer.getvalue()


def _draw_shape(pen: ImageDraw.ImageDraw, shape: str, x: int, y: int, r: int, colour: tuple[int, ...]) -> None:
    match shape:
        case "circle":
            pen.ellipse((x - r, y - r, x + r - 1, y + r - 1), fill=colour)
        case "square":
            pen.rectangle((x - r + 1, y - r + 1, x + r - 2, y + r - 2), fill=colour)
        case "triangle":
            pen.polygon([(x, y - r), (x + r - 1, y + r - 1), (x - r, y + r - 1)], fill=colour)
        case "cross":
            arm = max(1, r // 3)
            pen.rectangle((x - r, y - arm, x + r - 1, y + arm - 1), fill=colour)
            pen.rectangle((x - arm, y - r, x + arm - 1, y + r - 1), fill=colour)
        case _:
            raise AssertionError(shape)
