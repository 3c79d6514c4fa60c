"""One target under atheris: `python -m tests.fuzz.drive TARGET [options of libFuzzer] [folders]`.

`make fuzz` runs it for every target. To look at a finding, name its file:
`python -m tests.fuzz.drive router tests/fuzz/crashes/router/FILE`.
"""

from __future__ import annotations

import hashlib
import logging
import sys

import atheris


def main() -> None:
    """Never returns: libFuzzer ends the process."""
    name, *arguments = sys.argv[1:]
    # Branches are counted in what is imported here for the first time.
    with atheris.instrument_imports(include=["gateway", "discovery"]):
        from tests.fuzz.catalogue import TARGETS
        from tests.fuzz.target import CRASHES
    # What is told of hostile input would cost more than the rest.
    logging.disable(logging.CRITICAL)
    target = TARGETS[name]

    def check(data: bytes) -> None:
        try:
            target.check(data)
        except Exception:
            # libFuzzer writes it too, but not where the process ends before it comes to that.
            folder = CRASHES / name
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"crash-{hashlib.sha1(data, usedforsecurity=False).hexdigest()}").write_bytes(data)
            raise

    atheris.Setup([sys.argv[0], *arguments], check)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
