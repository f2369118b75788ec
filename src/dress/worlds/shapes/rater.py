"""The oracle rater: exact, from the scene graph that the shapes world keeps in its records."""

from __future__ import annotations

from collections.abc import Sequence

from dress.base.progress import Advance, ignore
from dress.base.seeding import rng_for
from dress.rater import Images, register
from dress.record import Dialogue, Feedback, Record, RecordError
from dress.worlds.shapes import oracle
from dress.worlds.shapes.instructions import Instruction
from dress.worlds.shapes.scene import Scene


@register("oracle")
class OracleRater:
    """Judges answers about shapes."""

    name = "oracle"

    def rate(
        self, items: Sequence[tuple[Record, Dialogue]], images: Images = (), progress: Advance = ignore
    ) -> list[Feedback]:
        """Feedback on the last answers.

        Raises:
            RecordError: a record carries no scene graph; use `annotator=rules` for such data.
        """
        feedback = [self._rate(record, dialogue) for record, dialogue in items]
        progress(len(items), "")
        return feedback

    def _rate(self, record: Record, dialogue: Dialogue) -> Feedback:
        try:
            scene = Scene.from_json(record.extra["scene"])
            instruction = Instruction.from_json(dialogue.extra["request"], dialogue.turns[0].user)
        except KeyError as error:
            raise RecordError(
                f"{record.key}: annotator=oracle expected the shapes world's {error} in `extra`, found none. "
                f"Use annotator=rules judge=rules for records of other sources"
            ) from None
        answer = dialogue.turns[-1].assistant or ""
        judgement = oracle.judge(scene, instruction, answer)
        rng = rng_for(record.key, instruction.user, len(dialogue.turns), answer)
        return Feedback(
            criterion=dialogue.criterion,
            rating=judgement.rating,
            critique=judgement.critique(rng),
            refinement=judgement.refinement(rng),
            annotator=self.name,
            prompt_version="shapes-1",
            spans=judgement.spans,
            extra=judgement.facts,
        )
