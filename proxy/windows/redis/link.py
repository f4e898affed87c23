"""redis-py, as this house uses it: which client an address asks for, and how it is told to behave.

Read in redis-py 8.1: a command that is cancelled or breaks while its reply is on the way closes the connection
(`Connection.read_response`), so that no later command can be given that reply; clients try again by themselves unless
told not to, and a command that was tried twice may have been carried out twice; a cluster's pipeline sends each node its
part, and follows redirections one by one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, Protocol, cast
from urllib.parse import urlsplit

from redis.asyncio import Redis
from redis.asyncio.cluster import ClusterNode, RedisCluster
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

CLUSTER: Final = "+cluster"
"""Behind the scheme of an address: it names nodes of a cluster, separated by commas."""
SCHEMES: Final = ("redis", "rediss", "unix", "redis" + CLUSTER, "rediss" + CLUSTER)

_CONNECT_S = 1.0


class Client(Protocol):
    """What this house asks of either client; redis-py types little of it."""

    def pipeline(self, *, transaction: bool) -> Any:
        """Return an empty pipeline."""
        ...

    def pubsub(self) -> Any:
        """Return a listener that is subscribed to nothing."""
        ...

    async def aclose(self) -> None:
        """Close every connection."""
        ...


def connect(url: str, timeout_s: float) -> Client:
    """Return a client for `url`; nothing is connected yet. Raises ValueError for an address that can't be one."""
    options: dict[str, Any] = {
        "socket_connect_timeout": _CONNECT_S,
        # the courier's own limit comes first; this one is for what it doesn't see
        "socket_timeout": max(_CONNECT_S, 2 * timeout_s),
        "retry": Retry(NoBackoff(), 0),
        "protocol": 2,
    }
    scheme, rest = url.split("://", 1)
    if not scheme.endswith(CLUSTER):
        return cast("Client", Redis.from_url(url, **options))  # pyright: ignore[reportUnknownMemberType]
    first, *others = _nodes(rest)
    plain = f"{scheme.removesuffix(CLUSTER)}://{first}"
    nodes = [ClusterNode(*_host_and_port(node)) for node in (first, *others)]
    return cast("Client", RedisCluster.from_url(plain, startup_nodes=nodes, **options))


def problem(url: str) -> str | None:
    """Say what is wrong with an address, without quoting it: it may hold a password."""
    scheme, separator, _ = url.partition("://")
    if not separator or scheme not in SCHEMES:
        return f"must begin with one of {', '.join(f'{name}://' for name in SCHEMES)}"
    try:
        connect(url, _CONNECT_S)
    except Exception:  # noqa: BLE001 - whatever redis-py makes of an address that is none
        return "is no address that a Redis client understands"
    return None


async def ready(client: Client) -> None:
    """Find a cluster's nodes, where it is one."""
    if isinstance(client, RedisCluster):
        await client.initialize()


def _nodes(rest: str) -> Sequence[str]:
    """Split `user:password@a:1,b:2/0?x=y` into one address for each node, the first with everything that belongs to all."""
    authority, slash, path = rest.partition("/")
    login, at, hosts = authority.rpartition("@")
    first, *others = hosts.split(",")
    return [f"{login}{at}{first}{slash}{path}", *others]


def _host_and_port(node: str) -> tuple[str, int]:
    parts = urlsplit(f"//{node}")
    return parts.hostname or "localhost", parts.port or 6379
