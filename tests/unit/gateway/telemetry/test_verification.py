"""O6, G4: what is done to audit files is found, and nothing is found where nothing was done."""

from __future__ import annotations

import json
from dataclasses import dataclass

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from gateway.telemetry.chain import GENESIS, SEAL_BYTES, Head, seal
from gateway.telemetry.verification import Verification, heads
from tests.support.audit_chains import ChainMaker, whole_chain

Files = dict[str, list[bytes]]


def problems(files: Files, *, partial: bool = False, expected: tuple[tuple[str, Head], ...] = ()) -> list[str]:
    """What is wrong with the files."""
    return [told for level, told in findings(files, partial=partial, expected=expected) if level == "problem"]


def findings(files: Files, *, partial: bool = False, expected: tuple[tuple[str, Head], ...] = ()) -> list[tuple[str, str]]:
    verification = Verification(partial=partial)
    for name, lines in files.items():
        verification.read(name, lines)
    for replica, head in expected:
        verification.expect(replica, head, "the store")
    return [(finding.level, str(finding)) for finding in verification.judge()]


# Any chains, mixed, rotated and restarted


@dataclass(frozen=True)
class World:
    """What processes have written: all lines in their order, and the chains they are of."""

    lines: list[bytes]
    chains: list[ChainMaker]

    @property
    def checkpoints(self) -> tuple[tuple[str, Head], ...]:
        return tuple((chain.replica, Head(chain.seq, chain.hash.decode())) for chain in self.chains)


@st.composite
def worlds(draw: st.DrawFn) -> World:
    """Up to three processes at a time, started anew up to twice; those that were killed have no stop."""
    lines: list[bytes] = []
    chains: list[ChainMaker] = []
    for generation in range(draw(st.integers(1, 3))):
        before = tuple(chains[-3:])
        now = [
            whole_chain(f"gw-{generation}-{number}", draw(st.integers(0, 6)), stopped=draw(st.booleans()), previous=before)
            for number in range(draw(st.integers(1, 3)))
        ]
        waiting = [list(chain.lines) for chain in now]
        while any(waiting):
            lines.append(draw(st.sampled_from([chain for chain in waiting if chain])).pop(0))
        chains += now
    return World(lines, chains)


@st.composite
def rotated(draw: st.DrawFn, lines: list[bytes]) -> Files:
    """The lines in up to three files, given in any order."""
    cuts = sorted(draw(st.lists(st.integers(0, len(lines)), max_size=2)))
    pieces = [lines[start:end] for start, end in zip([0, *cuts], [*cuts, len(lines)], strict=True)]
    return {f"audit.{number}": pieces[number] for number in draw(st.permutations(range(len(pieces))))}


def of_chain(line: bytes) -> tuple[str, int]:
    record = json.loads(line)
    return record["replica"], record["seq"]


@given(st.data(), worlds())
def test_what_nobody_touched_is_good(data: st.DataObject, world: World) -> None:
    """O6: through rotation, restarts, several workers, in any order of files."""
    files = data.draw(rotated(world.lines))
    assert problems(files, expected=world.checkpoints) == []


@given(st.data(), worlds())
def test_a_torn_last_line_is_only_noted(data: st.DataObject, world: World) -> None:
    """G4: `kill -9` leaves at most a torn line; up to there everything can be verified, also when the file goes on after it."""
    torn = data.draw(st.sampled_from(world.lines))[: data.draw(st.integers(2, 60))]
    later = whole_chain("gw-later", 2)
    found = findings({"audit": [*world.lines, torn]}, expected=world.checkpoints)
    assert [level for level, _ in found] == ["note"]
    # Ended by the next process, or by one that did not look.
    for rest in ([torn + b"\n", *later.lines], [torn + later.lines[0], *later.lines[1:]]):
        found = findings({"audit": [*world.lines, *rest]}, expected=world.checkpoints)
        assert [level for level, _ in found] == ["note"], found


@given(st.data(), worlds())
def test_an_edit_is_found(data: st.DataObject, world: World) -> None:
    """O6: any byte of any record."""
    at = data.draw(st.integers(0, len(world.lines) - 1))
    line = bytearray(world.lines[at])
    where = data.draw(st.integers(0, len(line) - 2))
    value = data.draw(st.integers(32, 126))
    assume(value != line[where])
    line[where] = value
    files = data.draw(rotated([*world.lines[:at], bytes(line), *world.lines[at + 1 :]]))
    assert problems(files, expected=world.checkpoints)


@given(st.data(), worlds())
def test_an_edit_with_a_new_hash_is_found(data: st.DataObject, world: World) -> None:
    """O6: whoever changes a record and seals it again breaks the link of the next one, or the checkpoint."""
    at = data.draw(st.integers(0, len(world.lines) - 1))
    record = json.loads(world.lines[at])
    prev = record.pop("prev").encode()
    del record["hash"]
    record["detail"] = {"number": 99}
    forged = b"".join(seal([json.dumps(record, separators=(",", ":")).encode() + b"\n"], prev)[0])
    files = data.draw(rotated([*world.lines[:at], forged, *world.lines[at + 1 :]]))
    assert problems(files, expected=world.checkpoints)


@given(st.data(), worlds())
def test_removed_records_are_found(data: st.DataObject, world: World) -> None:
    """O6: one record, or any number in a row, the end of a chain and whole chains included."""
    start = data.draw(st.integers(0, len(world.lines) - 1))
    end = data.draw(st.integers(start + 1, len(world.lines)))
    files = data.draw(rotated([*world.lines[:start], *world.lines[end:]]))
    assert problems(files, expected=world.checkpoints)


@given(st.data(), worlds())
def test_moved_records_are_found(data: st.DataObject, world: World) -> None:
    """O6: two records of a chain in each other's place, in one file."""
    chain = data.draw(st.sampled_from(world.chains))
    assume(chain.seq > 1)
    places = [at for at, line in enumerate(world.lines) if of_chain(line)[0] == chain.replica]
    first, second = sorted(data.draw(st.lists(st.sampled_from(places), min_size=2, max_size=2, unique=True)))
    lines = list(world.lines)
    lines[first], lines[second] = lines[second], lines[first]
    assert problems({"audit": lines}, expected=world.checkpoints)


@given(st.data(), worlds())
def test_a_record_that_is_there_twice_is_found(data: st.DataObject, world: World) -> None:
    """O6: duplicates, in the same file or another."""
    line = data.draw(st.sampled_from(world.lines))
    at = data.draw(st.integers(0, len(world.lines)))
    files = data.draw(rotated([*world.lines[:at], line, *world.lines[at:]]))
    assert problems(files, expected=world.checkpoints)


@given(st.data(), worlds())
def test_a_record_of_another_chain_is_found(data: st.DataObject, world: World) -> None:
    """O6: splices: a record that some process sealed, put where it does not belong; also under a name of ours."""
    replica = data.draw(st.sampled_from([world.chains[0].replica, "gw-elsewhere"]))
    other = whole_chain(replica, 9, previous=(ChainMaker("of another world"),))
    line = data.draw(st.sampled_from(other.lines[1:]))
    at = data.draw(st.integers(0, len(world.lines)))
    files = data.draw(rotated([*world.lines[:at], line, *world.lines[at:]]))
    assert problems(files, expected=world.checkpoints)


# What is said


def made(requests: int = 6) -> ChainMaker:
    return whole_chain("gw-1", requests)


def without(lines: list[bytes], *numbers: int) -> list[bytes]:
    return [line for number, line in enumerate(lines, 1) if number not in numbers]


def resealed(lines: list[bytes], at: int) -> list[bytes]:
    """All records from number `at` on made anew, as somebody can who may write to the file."""
    chain = lines[: at - 1]
    prev = json.loads(chain[-1])["hash"].encode() if chain else GENESIS
    for line in lines[at - 1 :]:
        record = json.loads(line)
        del record["prev"], record["hash"]
        record["detail"] = {"forged": True}
        sealed, prev = seal([json.dumps(record, separators=(",", ":")).encode() + b"\n"], prev)
        chain.append(b"".join(sealed))
    return chain


LINES = made().lines
CASES = {
    "edit": (
        [*LINES[:2], LINES[2].replace(b'"number":1', b'"number":7'), *LINES[3:]],
        ["audit:3: record 3 of gw-1 was changed: its hash does not fit its bytes"],
    ),
    "gap": (without(LINES, 3, 4), ["audit:3: records 3 to 4 of gw-1 missing before this one"]),
    "beginning": (without(LINES, 1, 2), ["audit:1: gw-1 begins with record 3: what came before is not in these files"]),
    "reorder": (
        [*LINES[:3], LINES[4], LINES[3], *LINES[5:]],
        ["audit:4: record 5 of gw-1 stands before record 4: they were moved"],
    ),
    "duplicate": ([*LINES[:4], *LINES[2:]], ["audit:5: records 3 to 4 of gw-1 once more: already met in audit"]),
    "splice": (
        [*LINES[:3], resealed(LINES, 3)[3], *LINES[4:]],
        ["audit:4: record 4 of gw-1 does not follow record 3 (audit): one of them was put in its place"],
    ),
    "seal removed": (
        [*LINES[:2], LINES[2][: -SEAL_BYTES - 2] + b"}\n", *LINES[3:]],
        [
            "audit:3: an audit record without a seal: nothing proves that it was not changed or made up",
            "audit:4: record 3 of gw-1 missing before this one",
        ],
    ),
    "record destroyed": (
        [*LINES[:2], LINES[2].replace(b'"seq"', b'"Seq"'), *LINES[3:]],
        ["audit:3: was changed: it ends with a seal and is no record", "audit:4: record 3 of gw-1 missing before this one"],
    ),
    "first record names another": (
        [b"".join(seal([LINES[0][: -SEAL_BYTES - 2] + b"}\n"], b"1" * 64)[0])],
        ["audit:1: record 1 of gw-1 names a record before it"],
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_what_is_wrong_is_said_with_its_place(case: str) -> None:
    """O6: file, line, and what."""
    lines, expected = CASES[case]
    found = problems({"audit": lines})
    assert found[: len(expected)] == expected, found


def test_an_end_that_was_cut_off_is_told_by_a_checkpoint() -> None:
    """O6: a chain alone can't say where it ended."""
    chain = made()
    head = Head(chain.seq, chain.hash.decode())
    cut = {"audit": chain.lines[:-3]}
    assert problems(cut) == []
    assert problems(cut, expected=(("gw-1", head),)) == [
        "audit: gw-1 ends with record 6, but the store knows record 9: its end was cut off"
    ]
    assert problems({"audit": chain.lines}, expected=(("gw-1", head),)) == []


def test_an_end_that_was_cut_off_is_told_by_the_next_start() -> None:
    """O6: a process names the ends that it finds in the file."""
    first = made()
    second = whole_chain("gw-2", 1, previous=(first,))
    cut = {"audit": [*first.lines[:-1], *second.lines]}
    assert problems(cut) == ["audit: gw-1 ends with record 8, but the start at audit:9 knows record 9: its end was cut off"]
    assert problems({"audit": second.lines}) == ["gw-1: no record of it is in these files, but the start at audit:1 knows record 9"]
    assert problems({"audit": second.lines}, partial=True) == []


def test_a_chain_that_was_made_anew_is_told_by_a_checkpoint() -> None:
    """AU-9: whoever owns the file can make a chain that holds together; not one that agrees with what is kept elsewhere."""
    chain = made()
    forged = {"audit": resealed(chain.lines, 3)}
    assert problems(forged) == []
    expected = (("gw-1", Head(chain.seq, chain.hash.decode())),)
    assert problems(forged, expected=expected) == ["audit: record 9 of gw-1 is not the one that the store knows: the chain was made anew"]


def test_a_whole_chain_that_is_gone_is_told_by_a_checkpoint() -> None:
    assert problems({"audit": made().lines}, expected=(("gw-9", Head(5, "0" * 64)),)) == [
        "gw-9: no record of it is in these files, but the store knows record 5"
    ]


def test_earlier_files_may_be_gone_when_that_is_said() -> None:
    """AU-11: what retention has removed is no problem then; a hole still is."""
    lines = made().lines
    assert problems({"audit": lines[3:]}, partial=True) == []
    assert problems({"audit": [*lines[3:5], *lines[6:]]}, partial=True) == ["audit:3: record 6 of gw-1 missing before this one"]


def test_a_loss_that_the_next_record_declares_is_a_note() -> None:
    """AU-5: `when_full: drop` leaves a hole, and a record that says so."""
    chain = ChainMaker("gw-1")
    for _ in range(5):
        chain.add()
    chain.add("gap", sink="stdout", first_seq=3, last_seq=5, records=3)
    chain.add("stop")
    told = "audit:3: note: records 3 to 5 of gw-1 missing: lost by the sink stdout, as this record says"
    assert findings({"audit": without(chain.lines, 3, 4, 5)}) == [("note", told)]
    # It covers what it names and nothing else; where nothing was lost it is a record like any other.
    assert problems({"audit": without(chain.lines, 2, 3, 4, 5)}) == ["audit:2: records 2 to 5 of gw-1 missing before this one"]
    assert problems({"audit": chain.lines}) == []


def test_other_lines_are_passed_over() -> None:
    """Standard output may carry the access log too."""
    lines = [b'{"method":"GET","status":200}\n', *made().lines, b"hello\n", b"\n"]
    assert findings({"audit": lines}) == [("note", "audit: note: 2 lines of another kind passed over")]


def test_checkpoints_are_found_in_what_was_kept_elsewhere() -> None:
    """O6: as it stands on standard output, also with what a container's runtime writes before it."""
    chain = made()
    kept = [b'{"method":"GET"}\n', b"2026-11-23T00:00:00.1Z stdout F " + chain.lines[-1], chain.lines[0]]
    verification = Verification()
    verification.read("audit", chain.lines[:-1])
    assert verification.expect_checkpoints("kept", kept) == 1
    assert [str(finding) for finding in verification.judge()] == [
        "audit: gw-1 ends with record 8, but the checkpoint at kept:2 knows record 9: its end was cut off"
    ]
    forged = Verification()
    assert forged.expect_checkpoints("kept", [chain.lines[-1].replace(b'"seq":9', b'"seq":7')]) == 0
    assert [str(finding) for finding in forged.judge()] == ["kept:1: this checkpoint was changed: its hash does not fit its bytes"]


def test_a_chain_is_told_of_in_one_line() -> None:
    chain = made()
    verification = Verification()
    verification.read("audit", chain.lines)
    verification.expect("gw-1", Head(chain.seq, chain.hash.decode()), "the store")
    verification.judge()
    told = "gw-1: records 1 to 9, ended in order, last checkpoint in it 9, agrees with 1 checkpoint kept elsewhere"
    assert str(verification.chains["gw-1"]) == told
    alive = Verification()
    alive.read("audit", chain.lines[:4])
    alive.judge()
    assert str(alive.chains["gw-1"]) == "gw-1: records 1 to 4, no stop at its end: at work, killed, or cut off, no checkpoint in it"


def test_the_heads_of_a_file_are_the_last_records_of_its_chains() -> None:
    """O6: what a start names, whatever else is in the file."""
    first, second = whole_chain("gw-1", 3), whole_chain("gw-2", 1, stopped=False)
    lines = [first.lines[0][40:], *first.lines, b"junk\n", *second.lines, second.lines[-1][:50]]
    assert heads(lines) == {
        "gw-1": Head(first.seq, first.hash.decode()),
        "gw-2": Head(second.seq, second.hash.decode()),
    }
