"""What a training step minimises, given the scores of supervised tokens, of answers, or of the same tokens twice.

An objective that compares answers says which (`compared`), and what each comparison costs. It never sees a model: the
sum of its costs is divided, outside, by the number of comparisons of the whole step, over all forests and ranks.
"""

from __future__ import annotations

from dress import config
from dress.objectives.comparisons import Comparing
from dress.objectives.distill import Distillation
from dress.objectives.dpo import Preference
from dress.objectives.kto import Wanted
from dress.objectives.self_correction import Correction


def comparing(settings: config.Section | None) -> Comparing | None:
    """The objective with these settings; None for one that looks at each token by itself."""
    match settings:
        case config.DPO():
            return Preference(settings)
        case config.KTO():
            return Wanted(settings)
        case config.SelfCorrection():
            return Correction(settings)
        case config.Distill():
            return Distillation(settings)
    return None
