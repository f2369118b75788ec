"""Dialogues over one picture as a token tree, through a vision-language model of transformers, in a plain loop.

    python examples/plain_loop.py FOLDER_OR_HUB_ID PICTURE

Nothing of Lightning or Hydra: what begins alike is computed once, and loss and gradients are those of the separate
dialogues (docs/exactness.md).
"""

import sys
from pathlib import Path

import torch

from dress.config import HFModel, Lora
from dress.dialogue.batch import Example, collate
from dress.dialogue.spans import Span, SupervisedDialogue
from dress.dialogue.tree import build_tree
from dress.model.hf import HFLVLM

name, picture = sys.argv[1:]
model = HFLVLM(HFModel(kind="hf", name=name, lora=Lora(rank=8, alpha=16)), max_tokens=4096)
model.set_trainable(["lora"])
optimizer = torch.optim.AdamW((p for p in model.parameters() if p.requires_grad), lr=1e-3)

question = Span("user", "What is in the picture?")
dialogues = [  # an answer under its critique, a better one after advice, and another question
    (question, Span("condition", "Feedback: you forgot the dog."), Span("assistant", "A cat.", 1.0)),
    (question, Span("assistant", "A cat."), Span("user", "Look again."), Span("assistant", "A cat and a dog.", 1.0)),
    (Span("user", "Where are they?"), Span("assistant", "In the grass.", 1.0)),
]
image = model.reader()(Path(picture).read_bytes(), picture)
encoded = [model.encoder.supervised(SupervisedDialogue("sft", spans), picture, image.layout) for spans in dialogues]
(forest,) = collate([Example([build_tree(encoded)], image)], tokens_per_forest=8192).forests
print(f"{sum(len(one.ids) for one in encoded)} tokens in {len(encoded)} dialogues, {forest.tokens} in their tree")

for step in range(5):
    loss, _ = model(forest, forest.weight / forest.weight.sum())
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    print(f"step {step}: loss {loss.item():.4f}")
