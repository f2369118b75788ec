"""What a person sees on the terminal while a curriculum runs: tables, and a batch in colour."""

from __future__ import annotations

import re
from itertools import groupby

from rich.console import Console
from rich.table import Table
from rich.text import Text

from dress import config
from dress.data.stream import Stream
from dress.dialogue.encode import IMAGE, DialogueEncoder, EncodedDialogue
from dress.model.lvlm import LVLM
from dress.objectives.stage import StageObjectives

SHOWN_RECORDS = 4
"""Records that `show=batch` prints."""


def parameter_table(model: LVLM, title: str) -> Table:
    """Parameters of every part, and how many of them are trained."""
    table = Table("part", "parameters", "trainable", title=title)
    for part, total, trainable in model.parameter_table():
        table.add_row(part, f"{total:,}", f"{trainable:,}" if trainable else "frozen")
    return table


def show_records(
    stream: Stream, objectives: StageObjectives, records: int, phases: config.Phases, model: LVLM, console: Console
) -> None:
    """Print the first records of a train stage as they are learned.

    Args:
        stream: of the stage.
        objectives: of its phases.
        records: of a step.
        phases: settings of the phases.
        model: whose tokens and loss weights they are.
        console: where to print.
    """
    encoder, reader = model.encoder, model.reader()
    if encoder.apart:
        console.print(
            "This tokenizer would merge the end of a prompt with the beginning of an answer: the two are tokenised "
            "apart, here and in generation.", style="yellow",
        )  # fmt: skip
    for place in stream.step(0, records)[:SHOWN_RECORDS]:
        record, image = stream[place]
        layout = None if image is None else reader(image, stream.where(place)).layout
        console.print(f"\n{stream.where(place)}", style="dim", highlight=False, markup=False)
        for dialogue in objectives.dialogues(record, phases):
            console.print(coloured(encoder, encoder.supervised(dialogue, stream.where(place), layout)))


def coloured(encoder: DialogueEncoder, encoded: EncodedDialogue) -> Text:
    """Tokens of one dialogue; those with a loss weight in bold green, the weight where it changes.

    Control tokens stand in reverse, so that words which only look like them are told apart. White space is seen:
    a tab as →, the end of a line as ↵, blanks but single ones between words as ·.
    """
    text, before = Text(f"{encoded.phase:>10}  ", style="bold"), 0.0
    pairs = zip(encoded.ids.tolist(), encoded.weights.tolist(), strict=True)

    def kind(pair: tuple[int, float]) -> tuple[str, float]:
        token, weight = pair
        return ("image" if token == IMAGE else "control" if token in encoder.control_ids else "text"), weight

    for (what, weight), group in groupby(pairs, kind):
        ids = [token for token, _ in group]
        if what == "image":
            text.append(f"[image: {len(ids)} tokens]", style="not bold cyan")
            continue
        if weight != before and weight:
            text.append(f" x{weight:g} ", style="not bold yellow")
        before = weight
        style = "bold green" if weight else "not bold dim"
        if what == "control":
            names = encoder.tokenizer.convert_ids_to_tokens(ids)
            text.append("".join(map(str, names)), style=f"{style} reverse")
        else:
            text.append(visible(encoder.text(ids)), style=style)
    return text


def visible(text: str) -> str:
    """The text with its white space to be seen and without control characters of a terminal."""
    text = re.sub(r"(?:^ | (?= )|(?<= ) | (?=[\n\t\r])|(?<=[\n\t\r]) | $)", "·", text)
    shown = {"\n": "↵\n", "\t": "→\t", "\r": "␍"}
    return "".join(shown.get(c) or (c if c.isprintable() or (c.isspace() and c == " ") else escaped(c)) for c in text)


def escaped(char: str) -> str:
    """A character that a terminal may take for a command, as its number."""
    return f"\\u{ord(char):04x}"
