"""Files that a configuration names: secrets are read, PEM and key set files are checked to be there."""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import sha256
from pathlib import Path

from gateway.config.problems import KeyPath, Report, shown
from gateway.settings import OwnCertificate

#: A secret is a token or a passphrase; more than this is the wrong file.
MAXIMUM_SECRET_BYTES = 64 * 1024
#: Of a file whose content is told from others by a digest: certificates, keys and configurations are far smaller.
MAXIMUM_DIGESTED_BYTES = 16 * 1024 * 1024


class Files:
    """Resolves and reads files beside a configuration.

    Args:
        directory: what relative paths are relative to.
        report: where problems go.
        required: False leaves files alone and secrets empty, to check a configuration away from where it runs.
    """

    def __init__(self, directory: Path, report: Report, *, required: bool = True) -> None:
        self._directory = directory
        self._report = report
        self.required = required
        #: Every file that was looked at, and a digest of what it held.
        self.seen: dict[str, str] = {}
        #: Our certificates among them, by the key that names the file.
        self.certificates: dict[str, OwnCertificate] = {}

    def path(self, text: str, key: KeyPath) -> str:
        """The absolute path of a file that exists and can be read; empty for empty text."""
        return self.content(text, key)[0]

    def content(self, text: str, key: KeyPath) -> tuple[str, bytes | None]:
        """The absolute path of a file that exists and can be read, and what is in it; empty and None for empty text, None too when it is
        not read."""
        if not text:
            return "", None
        path = self._directory / text
        content = None
        if self.required:
            try:
                with path.open("rb") as file:
                    content = file.read(MAXIMUM_DIGESTED_BYTES)
                self.seen[str(path)] = sha256(content).hexdigest()
            except (OSError, ValueError) as error:
                self._report.add(key, f"can't read {shown(text)}: {_reason(error)}", _relative(path, text))
        return str(path), content

    def directory(self, text: str, key: KeyPath) -> str:
        """The absolute path of a directory, which may be missing yet; empty for empty text."""
        if not text:
            return ""
        path = self._directory / text
        if self.required and path.exists() and not path.is_dir():
            self._report.add(key, f"{shown(text)} is not a directory", _relative(path, text))
        return str(path)

    def fingerprint(self, paths: Iterable[str]) -> str:
        """One digest for what these files held, of which some may be empty text; empty when all are."""
        seen = [self.seen.get(path, "") for path in paths if path]
        return sha256(" ".join(seen).encode()).hexdigest() if seen else ""

    def secret(self, text: str, key: KeyPath) -> bytes:
        """What is in a file, without the line break at its end; empty for empty text and after a problem."""
        if not text or not self.required:
            return b""
        path = self._directory / text
        try:
            with path.open("rb") as file:
                content = file.read(MAXIMUM_SECRET_BYTES + 1)
            self.seen[str(path)] = sha256(content).hexdigest()
        except (OSError, ValueError) as error:
            self._report.add(key, f"can't read {shown(text)}: {_reason(error)}", _relative(path, text))
            return b""
        content = content.removesuffix(b"\n").removesuffix(b"\r")
        if not content or len(content) > MAXIMUM_SECRET_BYTES:
            self._report.add(key, f"the file {shown(text)} is {'too large' if content else 'empty'}", f"1 to {MAXIMUM_SECRET_BYTES} bytes")
            return b""
        return content

    def secret_text(self, text: str, key: KeyPath) -> str:
        """A secret that goes into a header or a form: visible ASCII."""
        content = self.secret(text, key)
        if is_token(content):
            return content.decode("ascii")
        self._report.add(key, f"the file {shown(text)} holds characters other than visible ASCII", "one token, without spaces")
        return ""


def digest_of(path: Path) -> str:
    """What tells the content of a file from any other; empty when it can't be read."""
    try:
        with path.open("rb") as file:
            return sha256(file.read(MAXIMUM_DIGESTED_BYTES)).hexdigest()
    except OSError:
        return ""


def is_token(content: bytes) -> bool:
    """Whether a header can carry it: visible ASCII."""
    return all(0x21 <= byte <= 0x7E for byte in content)


def _reason(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)


def _relative(path: Path, text: str) -> str:
    """Where a relative path was looked for."""
    return "" if Path(text).is_absolute() else f"looked for it in {path.parent}"
