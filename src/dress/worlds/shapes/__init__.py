"""The shapes world: drawn scenes with an exact scene graph, a teacher with bad habits, an oracle.

It is the embedded default of the project (DESIGN §7): small enough to train on two cores in minutes,
and exact, so that helpfulness, honesty and harmlessness are measured, not guessed.
"""
