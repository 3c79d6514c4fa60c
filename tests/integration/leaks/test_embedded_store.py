"""What an embedded store that keeps its data writes to the disk."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from tests.integration.leaks.scene import Planted, fields
from tests.support.canaries import Canary, leaks
from tests.support.identity_provider import identity_provider
from tests.support.redis_server import wait_until
from tests.support.whole_gateway import ADMIN_TOKEN, Login, base_document, running, upstream


def test_files_of_the_embedded_store_hold_no_secret(tmp_path: Path) -> None:
    """O4, F-10: keys are digests; of revocations there is what the administrator wrote, of API keys no key."""
    planted = Planted()
    limit = f"limit-{secrets.token_hex(6)}"
    with identity_provider() as provider, upstream("records") as service:
        login = Login.at(provider, tmp_path)
        document = base_document(
            tmp_path,
            state={"url": f"embedded://{tmp_path}/state"},
            authentication=login.authentication,
            services={"records": {"instances": [service.url]}},
            limits={limit: {"rate": "1/hour", "burst": 9, "key": ["subject", "path:id", "header:X-Counted"]}},
            routes=[{"name": "records", "path": "/records/{id}", "service": "records", "limits": [limit]}],
        )
        with running(tmp_path, document) as gateway:
            token = login.token("jane", email=planted("claim"), jti=None)
            planted.adopt("signature", token[-20:])
            made = gateway.admin("POST", "/v1/api-keys", token=ADMIN_TOKEN, json={"subject": "service"})
            planted.adopt("API key", made.json()["key"][-20:])
            headers = dict(line.split(": ", 1) for line in fields(planted) if not line.startswith(("Host", "Connection", "Content-Type")))
            for credential in ({"Authorization": f"Bearer {token}"}, {"X-API-Key": made.json()["key"]}, {"X-API-Key": "gwk_x"}):
                path = f"/records/{planted('path parameter')}?{planted('query name')}={planted('query value')}"
                gateway.request("GET", path, headers={**headers, **credential})
            assert gateway.admin("POST", "/v1/revocations", json={"kind": "token", "value": token}).status_code == 201
            written = tmp_path / "state"

            def content() -> bytes:
                return b"\n".join(file.name.encode() + file.read_bytes() for file in sorted(written.rglob("*")) if file.is_file())

            wait_until(lambda: limit.encode() in content() and b'"kind":"jti"' in content(), "the store to write")
    assert oct(os.stat(written).st_mode & 0o777) == "0o700"
    found = leaks("files", content(), planted.all)
    assert not found, "\n".join(found)
    assert leaks("files", content() + planted("claim").encode(), planted.all)
    assert leaks("files", content(), [Canary("the limit", limit.removeprefix("limit-"))])
