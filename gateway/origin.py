"""Where a gateway's settings come from, and what its start adds to them: settings that are loaded later get the same added."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace

from gateway.development import development_settings, lacks_issuer
from gateway.errors import ConfigError
from gateway.server.serving import with_admin_token
from gateway.settings import Issuer, Settings

logger = logging.getLogger("gateway")


class Origin:
    """Loads settings, now and later.

    Args:
        declared: the settings to start with.
        read: gives them as they are declared later on. Raises ConfigError.

    Raises:
        ConfigError: they can't be used, or lack what `GATEWAY_ENV=production` wants.
    """

    def __init__(self, declared: Settings, read: Callable[[], Settings]) -> None:
        self._read = read
        #: The newest that are known to be good.
        self.settings = with_admin_token(development_settings(declared))
        self._development: tuple[Issuer, ...] = self.settings.authentication.issuers if lacks_issuer(declared) else ()

    def __repr__(self) -> str:
        return f"<Origin {self.settings.source or 'Python'}>"

    def read_again(self) -> Settings:
        """The settings as they are declared now. Raises ConfigError."""
        settings = self._read()
        if not settings.admin.token:
            settings = replace(settings, admin=replace(settings.admin, token=self.settings.admin.token))
        if lacks_issuer(settings):
            if not self._development:
                raise ConfigError("authentication: no issuer is configured any more; a development issuer is made at the start only")
            settings = replace(settings, authentication=replace(settings.authentication, issuers=self._development))
        return settings

    def renew(self) -> None:
        """Somebody has put to work what is declared now, so it is what a process that starts from now on begins with."""
        try:
            self.settings = self.read_again()
        except ConfigError as error:
            logger.warning("the configuration has changed again: %s", " ".join(str(error).split()))
