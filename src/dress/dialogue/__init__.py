"""From supervised dialogues to tensors: chat format, tokens with loss weights, token trees, batches."""
