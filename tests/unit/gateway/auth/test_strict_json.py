from __future__ import annotations

import pytest

from gateway.auth.strict_json import MAX_DEPTH, loads_object

REFUSED = {
    "empty": b"",
    "array": b"[]",
    "string": b'"x"',
    "null": b"null",
    "two documents": b"{}{}",
    "trailing comma": b'{"a":1,}',
    "comment": b'{"a":1/**/}',
    "single quotes": b"{'a':1}",
    "duplicate": b'{"a":1,"a":1}',
    "duplicate by escape": b'{"a":1,"\\u0061":2}',
    "duplicate below": b'{"a":{"b":1,"b":2}}',
    "NaN": b'{"a":NaN}',
    "Infinity": b'{"a":Infinity}',
    "-Infinity": b'{"a":-Infinity}',
    "overflow": b'{"a":1e999}',
    "long integer": b'{"a":' + b"1" * 21 + b"}",
    "very long integer": b'{"a":' + b"1" * 5000 + b"}",
    "long fraction": b'{"a":0.' + b"1" * 100 + b"}",
    "leading zero": b'{"a":01}',
    "hex": b'{"a":0x1}',
    "plus": b'{"a":+1}',
    "BOM": b"\xef\xbb\xbf{}",
    "UTF-16": '{"a":1}'.encode("utf-16"),
    "UTF-16LE": '{"a":1}'.encode("utf-16-le"),
    "UTF-32": '{"a":1}'.encode("utf-32"),
    "Latin-1": '{"a":"\xe9"}'.encode("latin-1"),
    "overlong UTF-8": b'{"a":"\xc0\xaf"}',
    "surrogate in UTF-8": b'{"a":"\xed\xa0\x80"}',
    "lone surrogate": b'{"a":"\\ud800"}',
    "lone surrogate in a name": b'{"\\udfff":1}',
    "raw control character": b'{"a":"\n"}',
    "NUL between": b'{\x00"a":1}',
    "deep array": b'{"a":' + b"[" * 2000 + b"]" * 2000 + b"}",
    "deep object": b'{"a":' * 2500 + b"1" + b"}" * 2500,
    "one level too deep": b'{"a":' + b"[" * MAX_DEPTH + b"]" * MAX_DEPTH + b"}",
    "never closed": b"[" * 6000,
}


@pytest.mark.parametrize("document", REFUSED.values(), ids=REFUSED.keys())
def test_refuses_with_a_value_error_and_nothing_else(document: bytes) -> None:
    """A3: strict UTF-8 JSON objects only; the reader never raises anything but ValueError (S-28)."""
    with pytest.raises(ValueError):
        loads_object(document)


def test_reads_what_is_plain() -> None:
    """A3: strictness costs no honest document."""
    assert loads_object(b' {"a":[1,-2,1.5e3,true,null,"\\u00e9\\ud83d\\ude00"],"b":{}}\n') == {
        "a": [1, -2, 1500.0, True, None, "é😀"],
        "b": {},
    }


def test_many_shallow_objects_are_not_deep() -> None:
    """A3: depth is bounded, breadth is not (an issuer may list many clients' roles)."""
    document = b'{"a":[' + b",".join([b'{"b":[]}'] * 100) + b"]}"
    assert len(loads_object(document)["a"]) == 100
