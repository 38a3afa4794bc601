"""Verdicts over members' hashes: who differs, and whom to blame (MNT-23, MNT-24).

Pure functions over what members answered to HashKV. Hashes are comparable only where the compact
revisions are equal too (MNT-21); what is not comparable proves nothing. The trade-off: a majority
is believed, so two members damaged alike would accuse the third.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

from kvstore.mvcc.hash import HashKV

WHOLE_CLUSTER: Final = 0
"""Blamed when no majority agrees: nobody knows who is damaged."""


class Answer(NamedTuple):
    """What a member said about itself."""

    hash: HashKV
    revision: int
    """Its store's revision when it answered."""


Answers = Mapping[int, Answer | None]
"""Member id -> answer; None: it gave none that could be compared (away, behind, compacted)."""


class Verdict(NamedTuple):
    """What a comparison came to."""

    suspects: list[int]
    """Members to raise CORRUPT for, ascending; `WHOLE_CLUSTER` alone without a majority."""
    complete: bool
    """Every member was compared, or somebody is to blame: nothing more to do at this revision."""


def differing(own: HashKV, answers: Answers) -> list[int]:
    """Return the members with another hash at an equal compact revision (the initial check)."""
    return [
        member_id
        for member_id, answer in sorted(answers.items())
        if answer is not None
        and answer.hash.compact_revision == own.compact_revision
        and answer.hash.hash != own.hash
    ]


def compare(own_id: int, own: HashKV, answers: Answers) -> Verdict:
    """Group all members by hash; those outside of the majority are to blame.

    The majority is of all members, those that did not answer included.
    """
    groups: dict[int, list[int]] = {own.hash: [own_id]}
    compared = 0
    for member_id, answer in sorted(answers.items()):
        if answer is not None and answer.hash.compact_revision == own.compact_revision:
            groups.setdefault(answer.hash.hash, []).append(member_id)
            compared += 1
    if len(groups) == 1:
        return Verdict([], complete=compared == len(answers))
    quorum = (len(answers) + 1) // 2 + 1
    if not any(len(group) >= quorum for group in groups.values()):
        return Verdict([WHOLE_CLUSTER], complete=True)
    minority = [m for group in groups.values() if len(group) < quorum for m in group]
    return Verdict(sorted(minority), complete=True)


def suspects_of_periodic_check(
    own_id: int, before: HashKV, after: Answer, answers: Answers
) -> list[int]:
    """Judge the leader's periodic check.

    `before` is the leader's hash, `answers` are the others' at the same revision, and `after` is
    the leader's own once more, after a confirmation that everything acknowledged is applied here.
    As in etcd one member at most is blamed for being ahead of the leader; unlike there, whoever is
    outside of the majority is blamed for another hash, the leader too.
    """
    later = after.hash
    if (later.hash_revision, later.compact_revision) == (
        before.hash_revision,
        before.compact_revision,
    ) and later.hash != before.hash:
        return [own_id]
    for member_id, answer in sorted(answers.items()):
        if answer is not None and (
            answer.revision > after.revision
            or answer.hash.compact_revision > later.compact_revision
        ):
            return [member_id]
    return compare(own_id, before, answers).suspects
