"""The development keys that several gateways share: `python -m gateway.demo.keys DIRECTORY`.

`gateway keygen` refuses to touch a key that exists. This makes one where there is none, and is content where there is one, so that it
can run each time a stack of containers starts.
"""

from __future__ import annotations

import sys
from pathlib import Path

from gateway.auth.development import JWKS_FILE, keygen
from gateway.errors import ConfigError


def main(arguments: list[str]) -> int:
    """Returns the exit code: 0, 2 for bad usage, 3 when the directory can't be used."""
    if len(arguments) != 1:
        print("usage: python -m gateway.demo.keys DIRECTORY", file=sys.stderr)
        return 2
    directory = Path(arguments[0])
    # The key set is written last: where it is, the private key is too.
    if (directory / JWKS_FILE).is_file():
        return 0
    try:
        keygen(directory)
    except ConfigError as exc:
        print(exc, file=sys.stderr)
        return 3
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
