"""What a person sees on the terminal while a curriculum runs: tables, and a batch in colour."""

from __future__ import annotations

from rich.table import Table
from rich.text import Text

from dress.dialogue.encode import IMAGE, Encoded, Encoder
from dress.model.lvlm import LVLM


def parameter_table(model: LVLM, title: str) -> Table:
    """Parameters of every part, and how many of them are trained."""
    table = Table("part", "parameters", "trainable", title=title)
    for part, total, trainable in model.parameter_table():
        table.add_row(part, f"{total:,}", f"{trainable:,}" if trainable else "frozen")
    return table


def ratings_as_table(ratings: dict[str, dict[str, list[int]]]) -> Table:
    """Ratings of collected answers by criterion and turn."""
    table = Table("criterion", "turn", "1", "2", "3", "4", "unrated", "mean", title="collected ratings")
    for criterion, turns in ratings.items():
        for turn, counts in turns.items():
            rated = sum(counts[:4])
            mean = sum((i + 1) * n for i, n in enumerate(counts[:4])) / rated if rated else float("nan")
            table.add_row(criterion, turn, *map(str, counts), f"{mean:.2f}")
    return table


def coloured(encoder: Encoder, encoded: Encoded) -> Text:
    """Tokens of one dialogue; those with a loss weight in bold green, the weight where it changes."""
    text, before, images = Text(f"{encoded.phase:>10}  ", style="bold"), 0.0, 0
    for token, weight in zip(encoded.ids.tolist(), encoded.weights.tolist(), strict=True):
        if token == IMAGE:
            images += 1
            continue
        if images:
            text.append(f"[image: {images} tokens]", style="not bold cyan")
            images = 0
        if weight != before and weight:
            text.append(f" x{weight:g} ", style="not bold yellow")
        before = weight
        piece = str(encoder.tokenizer.decode([token]))
        text.append(piece, style="bold green" if weight else "not bold dim")
    return text
