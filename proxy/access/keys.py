"""Who is calling, by the API key that came with the call; it knows neither paths nor limits.

A key is compared by its keyed digest, with every configured one and in constant time, so that neither the time taken
nor a dump of memory tells anything of the keys that were not sent.
"""

from __future__ import annotations

import hmac
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b

from proxy.errors import UnauthorizedError
from proxy.model import ACCOUNT, Caller, Secret

CREDENTIALS = ("authorization", "api-key", "x-api-key")
"""Headers that may carry the key, in the order in which they are asked."""

_DIGEST_BYTES = 16
_NO_KEY = "You didn't provide an API key. Send it as `Authorization: Bearer KEY`."
_WRONG_KEY = "Incorrect API key provided. This proxy accepts only the keys of its own configuration."


@dataclass(frozen=True, slots=True)
class NamedKey:
    """One configured key and the name by which it may be logged."""

    name: str
    key: Secret


class Access:
    """Turns a call's headers into its `Caller`.

    `digest_key` is random and lives as long as the process: digests of one process mean nothing in another.
    `keys` None means open: any key or none will do. `keep_bearer`: an entry of the configuration sends the caller's own key upstream.
    """

    def __init__(self, *, digest_key: bytes, keys: Sequence[NamedKey] | None = None, keep_bearer: bool = False) -> None:
        self._digest_key = digest_key
        self._keep_bearer = keep_bearer
        self._keys = None if keys is None else tuple((named.name, self._digest(named.key.value)) for named in keys)

    def identify(self, headers: Mapping[str, str]) -> Caller:
        """Return who calls (header names in lower case); raises UnauthorizedError where keys are asked for and this is none of them."""
        key = presented_key(headers)
        digest = self._digest(key) if key else ""
        name = None if self._keys is None else self._named(digest)
        account = tuple((header, headers[header]) for header in ACCOUNT if header in headers)
        return Caller(digest, name, Secret(key) if key and self._keep_bearer else None, account)

    def _named(self, digest: str) -> str:
        if not digest:
            raise UnauthorizedError(_NO_KEY)
        found: str | None = None
        for name, known in self._keys or ():
            # no early exit: the time taken must not tell which key it was
            if hmac.compare_digest(digest, known):
                found = name
        if found is None:
            raise UnauthorizedError(_WRONG_KEY)
        return found

    def _digest(self, key: str) -> str:
        return blake2b(key.encode("utf-8", "surrogateescape"), key=self._digest_key, digest_size=_DIGEST_BYTES).hexdigest()


def presented_key(headers: Mapping[str, str]) -> str:
    """Return the key that came with the call, empty for none: a bearer in any case and spacing, a bare token, or Azure's `api-key`."""
    for name in CREDENTIALS:
        value = headers.get(name)
        if value is None:
            continue
        scheme, _, rest = value.strip().partition(" ")
        token = rest.strip() if scheme.lower() == "bearer" else value.strip()
        if token:
            return token
    return ""
