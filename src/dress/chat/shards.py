"""The shards of what people say: a new word makes only the shard of its record to be written again."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from dress.chat.pictures import Pictures
from dress.chat.records import FindRecord, JudgedRecord, records
from dress.data.index_file import INDEX
from dress.data.shards import as_members, write_shard
from dress.feedback.journal import AnyEvent
from dress.feedback.lvlm_nlf import ROWS, write_lvlm_nlf

PER_SHARD = 100
"""Pictures and first questions, judged or not, whose records a shard may hold: a record never leaves its shard."""


class FeedbackShards:
    """Shards and rows of LVLM_NLF that hold what a journal says.

    Args:
        folder: of them.
        pictures: that were asked about.
        find: the records of a queue.
    """

    def __init__(self, folder: Path, pictures: Pictures, find: FindRecord) -> None:
        self.folder, self.pictures, self.find = folder, pictures, find
        self._contents: dict[Path, str] = {}  # of the shards that this process has written

    def write(self, events: Sequence[AnyEvent]) -> int:
        """Bring them up to the last line of a journal; how many records there are.

        Raises:
            ValueError: a record of the queue is not there.
            OSError: no room for them; shards that are there stay whole.
        """
        judged = list(records(events, self.find))
        shards: dict[Path, list[JudgedRecord]] = {}
        for one in judged:
            shards.setdefault(self.folder / f"shard-{one.place // PER_SHARD:06d}.tar", []).append(one)
        contents = {file: _fingerprint(part) for file, part in shards.items()}
        changed = [file for file in shards if self._contents.get(file) != contents[file] or not file.exists()]
        needless = sorted(set(self.folder.glob("shard-*.tar")) - shards.keys())
        if changed or needless:
            (self.folder / INDEX).unlink(missing_ok=True)  # it is about the shards before
        for file in changed:
            write_shard(file, (as_members(one.record, self.pictures.read(one.picture)) for one in shards[file]))
            self._contents[file] = contents[file]
        for file in needless:
            file.unlink()
        if judged:
            write_lvlm_nlf(self.folder / ROWS, (one.record for one in judged))
        return len(judged)


def _fingerprint(part: Sequence[JudgedRecord]) -> str:
    text = hashlib.sha256()
    for one in part:
        text.update(one.record.dump() + (one.picture or "").encode() + b"\n")
    return text.hexdigest()
