"""One target under atheris: `python -m tests.fuzz.drive TARGET [options of libFuzzer] [folders]`.

`make fuzz` runs it for every target. To look at a finding, name its file:
`python -m tests.fuzz.drive router tests/fuzz/crashes/router/FILE`.
"""

from __future__ import annotations

import logging
import sys

import atheris


def main() -> None:
    """Never returns: libFuzzer ends the process."""
    name, *arguments = sys.argv[1:]
    # Branches are counted in what is imported here for the first time.
    with atheris.instrument_imports(include=["gateway", "discovery"]):
        from tests.fuzz.catalogue import TARGETS
    # What is told of hostile input would cost more than the rest.
    logging.disable(logging.CRITICAL)
    atheris.Setup([sys.argv[0], *arguments], TARGETS[name].check)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
