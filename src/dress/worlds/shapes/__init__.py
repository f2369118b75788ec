"""The shapes world: drawn scenes with an exact scene graph, a teacher with bad habits, an oracle.

It is the embedded default of the project: small enough to train on two cores in minutes, and exact, so that
helpfulness, honesty and harmlessness are measured, not guessed.
"""

from dress.worlds.registry import register
from dress.worlds.shapes import attacks, generate, rater  # noqa: F401  # rater and attacker register themselves

register("shapes", generate)
