"""Whether audit files hold what was written: every record of every chain, unchanged and in its place (SPEC O6, G4).

A file may hold records of several processes, mixed, and other lines beside them; a chain may go on in other files, given in any order.
What a chain can't say by itself is where it ended: for that it is held against checkpoints that are kept elsewhere, and against the heads
that later processes found in the file when they started.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

from gateway.telemetry.chain import GENESIS, MARKS, Head, NotSealed, Sealed, unseal

#: What every record begins with: a piece of a line may stand before it when a process was killed in the middle of a write.
RECORD_START = b'{"time":"'
_DIGEST_BYTES = 32
_SHOWN_CHARACTERS = 500


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was found.

    Args:
        level: a `problem` breaks the proof; a `note` is worth knowing.
        where: `file:line`, or what else it is about.
    """

    level: Literal["problem", "note"]
    where: str
    told: str

    def __str__(self) -> str:
        return _line_of(f"{self.where}: {'' if self.level == 'problem' else 'note: '}{self.told}")


@dataclass(slots=True)
class _Run:
    """Records of one chain that stand in a file one after the other, each linked to the one before.

    `order` counts runs in the order in which they were read; `declared` is what the first record says that a sink lost before it.
    """

    file: str
    line: int
    order: int
    first: int
    prev: str
    last: int
    hash: str
    declared: tuple[int, int, str] | None
    digests: bytearray
    stopped: int = 0
    checkpoint: int = 0

    @property
    def where(self) -> str:
        return f"{self.file}:{self.line}"

    def add(self, record: Sealed, seq: int) -> None:
        self.last, self.hash = seq, record.hash
        self.digests += bytes.fromhex(record.hash)
        if record.event in MARKS:
            self.checkpoint = seq
            self.stopped = seq if record.event == "stop" else 0

    def digest(self, seq: int) -> bytes:
        start = (seq - self.first) * _DIGEST_BYTES
        return bytes(self.digests[start : start + _DIGEST_BYTES])


@dataclass(frozen=True, slots=True)
class _Expectation:
    """That a chain has a certain record, as `source` says."""

    replica: str
    head: Head
    source: str
    external: bool


@dataclass(slots=True)
class Chain:
    """What is known of one chain.

    Args:
        records: how many were read, those that are there twice included.
        checkpoint: number of its last checkpoint; 0 for none.
        ended: whether its process ended in order.
        confirmed: checkpoints kept elsewhere that it agrees with.
    """

    replica: str
    first: int = 0
    last: int = 0
    records: int = 0
    checkpoint: int = 0
    ended: bool = False
    confirmed: int = 0

    def __str__(self) -> str:
        parts = [f"records {self.first} to {self.last}"]
        parts.append("ended in order" if self.ended else "no stop at its end: at work, killed, or cut off")
        parts.append(f"last checkpoint in it {self.checkpoint}" if self.checkpoint else "no checkpoint in it")
        if self.confirmed:
            parts.append(f"agrees with {self.confirmed} checkpoint{'' if self.confirmed == 1 else 's'} kept elsewhere")
        return f"{_line_of(self.replica)}: {', '.join(parts)}"


@dataclass(slots=True)
class _File:
    """Where we are in a file, and what was met in it."""

    name: str
    line: int = 0
    others: int = 0
    unsealed: list[int] = field(default_factory=list)
    runs: dict[str, _Run] = field(default_factory=dict)

    @property
    def where(self) -> str:
        return f"{self.name}:{self.line}"


class Verification:
    """Reads files, then judges. Memory: 32 bytes a record.

    Args:
        partial: earlier files may be gone, so a chain may begin with any record.
    """

    def __init__(self, *, partial: bool = False) -> None:
        self._partial = partial
        self._findings: list[Finding] = []
        self._runs: dict[str, list[_Run]] = {}
        self._expectations: list[_Expectation] = []
        self._order = 0
        #: Sealed records that were read.
        self.records = 0
        #: By name; complete after `judge`.
        self.chains: dict[str, Chain] = {}

    @property
    def replicas(self) -> frozenset[str]:
        """The chains that were met, or that something that was read speaks of."""
        return frozenset(self._runs) | {expected.replica for expected in self._expectations}

    def read(self, name: str, lines: Iterable[bytes]) -> None:
        """Read a file: its lines with their newlines."""
        file = _File(name)
        for line in lines:
            file.line += 1
            self._line(file, line)
        if file.unsealed:
            count = len(file.unsealed)
            told = f"an audit record without a seal{'' if count == 1 else f', the first of {count} in this file'}"
            self._problem(f"{name}:{file.unsealed[0]}", f"{told}: nothing proves that it was not changed or made up")
        if file.others:
            self._note(name, f"{file.others} line{'' if file.others == 1 else 's'} of another kind passed over")

    def expect(self, replica: str, head: Head, source: str) -> None:
        """A checkpoint that was kept elsewhere."""
        self._expectations.append(_Expectation(replica, head, source, external=True))

    def expect_checkpoints(self, name: str, lines: Iterable[bytes]) -> int:
        """Every checkpoint record among lines that were kept elsewhere, as standard output was; how many there were."""
        count = 0
        for number, line in enumerate(lines, 1):
            start, end = line.find(RECORD_START), line.rfind(b"}")
            if start < 0:
                continue
            try:
                record = unseal(line[start : end + 1])
            except NotSealed:
                continue
            if record.event not in MARKS:
                continue
            if not record.intact:
                self._problem(f"{name}:{number}", "this checkpoint was changed: its hash does not fit its bytes")
                continue
            count += 1
            self.expect(record.replica, Head(record.seq, record.hash), f"the checkpoint at {name}:{number}")
        return count

    def judge(self) -> list[Finding]:
        """Everything that was found: problems in the order of what was read, then what is known of ends, then notes."""
        for replica, runs in self._runs.items():
            self._judge_chain(replica, sorted(runs, key=lambda run: (run.first, run.order)))
        for expected in self._expectations:
            self._judge_expectation(expected)
        return sorted(self._findings, key=lambda finding: finding.level, reverse=True)

    # Reading

    def _line(self, file: _File, line: bytes) -> None:
        content = line.removesuffix(b"\n")
        try:
            record = unseal(content)
        except NotSealed as error:
            self._unreadable(file, content, error, whole=line.endswith(b"\n"))
        else:
            self._record(file, record)

    def _unreadable(self, file: _File, content: bytes, error: NotSealed, *, whole: bool) -> None:
        if error.record:
            file.unsealed.append(file.line)
            return
        if (start := content.rfind(RECORD_START)) > 0:
            try:
                record = unseal(content[start:])
            except NotSealed:
                pass
            else:
                self._note(file.where, "begins with a piece of another line: a process was killed while it wrote that")
                self._record(file, record)
                return
        if error.sealed:
            self._problem(file.where, "was changed: it ends with a seal and is no record")
        elif content.startswith(RECORD_START[:2]) and not error.json:
            what = "a line that breaks off" if whole else "the last line breaks off"
            self._note(file.where, f"{what}: a process was killed while it wrote this, or somebody damaged it")
        elif content:
            file.others += 1

    def _record(self, file: _File, record: Sealed) -> None:
        self.records += 1
        run = file.runs.get(record.replica)
        seq = record.seq
        follows = run is not None and record.prev == run.hash
        if not record.intact:
            self._problem(file.where, f"record {seq} of {record.replica} was changed: its hash does not fit its bytes")
            if run is not None and follows:
                seq = run.last + 1
        if run is not None and follows and seq == run.last + 1:
            run.add(record, seq)
        else:
            self._begin(file, record, seq)
        if record.event == "start" and record.intact:
            self._expect_previous(record.members, file.where)

    def _begin(self, file: _File, record: Sealed, seq: int) -> None:
        self._order += 1
        run = _Run(file.name, file.line, self._order, seq, record.prev, seq, record.hash, _declared(record), bytearray())
        run.add(record, seq)
        file.runs[record.replica] = run
        self._runs.setdefault(record.replica, []).append(run)

    def _expect_previous(self, members: Any, where: str) -> None:
        for replica, head in _previous(members):
            self._expectations.append(_Expectation(replica, head, f"the start at {where}", external=False))

    # Judging

    def _judge_chain(self, replica: str, runs: list[_Run]) -> None:
        first = reached = runs[0]
        if first.first != 1:
            told = f"{replica} begins with record {first.first}: what came before is not in these files"
            (self._note if self._partial else self._problem)(first.where, told)
        elif first.prev != GENESIS.decode():
            self._problem(first.where, f"record 1 of {replica} names a record before it")
        for run in runs[1:]:
            self._judge_joint(replica, reached, run, runs)
            if run.last > reached.last:
                reached = run
        stopped = max(run.stopped for run in runs)
        self.chains[replica] = Chain(
            replica,
            first.first,
            reached.last,
            sum(run.last - run.first + 1 for run in runs),
            max(run.checkpoint for run in runs),
            # What was under way when it ended may come after it.
            0 < stopped >= reached.last - 2,
        )

    def _judge_joint(self, replica: str, before: _Run, run: _Run, runs: list[_Run]) -> None:
        if run.first <= before.last:
            self._judge_overlap(replica, before, run, runs)
        elif run.first > before.last + 1:
            missing = (before.last + 1, run.first - 1)
            if run.declared is not None and run.declared[:2] == missing:
                self._note(run.where, f"{_records(*missing)} of {replica} missing: lost by the sink {run.declared[2]}, as this record says")
            else:
                self._problem(run.where, f"{_records(*missing)} of {replica} missing before this one")
        elif run.prev != before.hash:
            told = f"record {run.first} of {replica} does not follow record {before.last} ({before.file}): one of them was put in its place"
            self._problem(run.where, told)
        elif run.file == before.file and run.order < before.order:
            self._problem(run.where, f"record {run.first} of {replica} stands before record {before.last}: they were moved")

    def _judge_overlap(self, replica: str, before: _Run, run: _Run, runs: list[_Run]) -> None:
        last = min(run.last, before.last)
        earlier = runs[: runs.index(run)]
        for seq in range(run.first, last + 1):
            if any(other.first <= seq <= other.last and other.digest(seq) == run.digest(seq) for other in earlier):
                continue
            self._problem(run.where, f"another record {seq} of {replica} stands at {before.file}: one of them is not of this chain")
            return
        self._problem(run.where, f"{_records(run.first, last)} of {replica} once more: already met in {before.file}")

    def _judge_expectation(self, expected: _Expectation) -> None:
        runs = self._runs.get(expected.replica, [])
        seq, source = expected.head.seq, expected.source
        if not runs:
            told = f"no record of it is in these files, but {source} knows record {seq}"
            (self._note if self._partial and not expected.external else self._problem)(expected.replica, told)
            return
        chain = self.chains[expected.replica]
        if seq > chain.last:
            last = max(runs, key=lambda run: run.last)
            self._problem(
                last.file, f"{expected.replica} ends with record {chain.last}, but {source} knows record {seq}: its end was cut off"
            )
            return
        holding = [run for run in runs if run.first <= seq <= run.last]
        if any(run.digest(seq).hex() == expected.head.hash for run in holding):
            chain.confirmed += expected.external
        elif holding:
            self._problem(
                holding[0].file, f"record {seq} of {expected.replica} is not the one that {source} knows: the chain was made anew"
            )

    def _problem(self, where: str, told: str) -> None:
        self._findings.append(Finding("problem", where, told))

    def _note(self, where: str, told: str) -> None:
        self._findings.append(Finding("note", where, told))


def heads(lines: Iterable[bytes]) -> dict[str, Head]:
    """The last record of each chain among lines, the chain of the newest one last. What can't be read is passed over."""
    found: dict[str, Head] = {}
    for line in lines:
        try:
            record = unseal(line.rstrip(b"\n"))
        except NotSealed:
            continue
        found.pop(record.replica, None)
        found[record.replica] = Head(record.seq, record.hash)
    return found


def _line_of(text: str) -> str:
    """The text on a line and bounded: names come from files that somebody may have changed, and must not drive the reader's terminal."""
    shown = text if len(text) <= _SHOWN_CHARACTERS else text[:_SHOWN_CHARACTERS] + "..."
    return shown if shown.isprintable() else shown.encode("unicode_escape").decode("ascii")


def _records(first: int, last: int) -> str:
    return f"record {first}" if first == last else f"records {first} to {last}"


def _declared(record: Sealed) -> tuple[int, int, str] | None:
    detail = record.members.get("detail")
    if record.event != "gap" or not record.intact or not isinstance(detail, dict):
        return None
    first, last = detail.get("first_seq"), detail.get("last_seq")
    return (first, last, str(detail.get("sink"))) if isinstance(first, int) and isinstance(last, int) else None


def _previous(members: Any) -> Iterator[tuple[str, Head]]:
    detail = members.get("detail")
    previous = detail.get("previous") if isinstance(detail, dict) else None
    for item in previous if isinstance(previous, list) else ():
        if isinstance(item, dict) and isinstance(item.get("seq"), int):
            yield str(item.get("replica")), Head(item["seq"], str(item.get("hash")))
