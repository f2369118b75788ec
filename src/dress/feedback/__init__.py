"""Who judges answers, and how a model's own answers are collected with feedback."""
