"""The misfortunes. Each is one function: its name is the scenario's, its docstring says what it does; traffic runs beside it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from types import MappingProxyType

from tests.chaos.fleet import Replica
from tests.chaos.judging import GRACE_S, STORE_S, WINDOW_S
from tests.chaos.line import BOTH, Direction
from tests.chaos.scene import Scene
from tests.redis_server import RedisServer

Scenario = Callable[[Scene], Awaitable[None]]
_DIRECTIONS: tuple[tuple[Direction, ...], ...] = (BOTH, ("there",), ("back",))
_TAKE_BACK_S = 7.0
"""A lease and what its end is noticed in."""
_ENDS_WITHIN_S = 25.0
_IN_STEP_S = 10.0


async def leader_killed_before_the_claim(scene: Scene) -> None:
    """Kill a replica whose windows are open."""
    leader = scene.one()
    scene.led_by(leader)
    await scene.between(0.03, 0.9 * WINDOW_S)
    leader.kill()


async def leader_killed_at_the_claim(scene: Scene) -> None:
    """Kill a replica about when it claims its windows: a little before, or as soon as its batch is upstream."""
    leader = scene.one()
    calls = scene.led_by(leader)
    if scene.rng.random() < 1 / 2:
        await scene.between(0.9 * WINDOW_S, 1.2 * WINDOW_S)
    else:
        await scene.in_a_batch(calls)
    leader.kill()


async def leader_killed_mid_stream(scene: Scene) -> None:
    """Kill a replica while its batches are written."""
    leader = scene.one()
    await scene.in_a_batch(scene.led_by(leader))
    await scene.between(0.3, 3.5)
    leader.kill()


async def guest_killed(scene: Scene) -> None:
    """Kill a replica whose callers are in windows and batches of others."""
    guest = scene.one()
    leader, *third = scene.others(guest)
    scene.led_by(leader, [guest, *third, guest][:3])
    await scene.between(0.05, WINDOW_S + 2.5)
    guest.kill()


async def leader_frozen(scene: Scene) -> None:
    """Stop a replica that leads in its tracks, for a moment or past the taking back, and wake it."""
    leader = scene.one()
    calls = scene.led_by(leader)
    if scene.rng.random() < 1 / 2:
        await scene.in_a_batch(calls)
        await scene.between(0.0, 1.5)
    else:
        await scene.between(0.03, 1.2 * WINDOW_S)
    leader.freeze()
    await scene.between(*scene.rng.choice([(0.3, 2.0), (_TAKE_BACK_S, _TAKE_BACK_S + 1.5)]))
    leader.wake()


async def redis_killed(scene: Scene) -> None:
    """Kill Redis, and let it stay away until all callers are answered."""
    scene.led_by(scene.one())
    await scene.between(0.05, 2.0)
    scene.fleet.redis.kill()
    await scene.between(1.0, 3.0)


async def redis_paused(scene: Scene) -> None:
    """Stop Redis in its tracks, for a moment or for long, and wake it: it carries out what lay before it."""
    scene.led_by(scene.one())
    await scene.between(0.05, 2.0)
    scene.fleet.redis.pause()
    await scene.between(*scene.rng.choice([(0.05, 2 * STORE_S), (1.0, 7.0)]))
    scene.fleet.redis.go_on()


async def redis_slow(scene: Scene) -> None:
    """Make the way to Redis slow, for some replicas or for all, around what is borne."""
    replicas = scene.fleet.balanced
    for replica in scene.rng.sample(replicas, scene.rng.randint(1, len(replicas))):
        replica.line.slow(*scene.rng.choice([(0.0, STORE_S / 3), (0.0, STORE_S), (STORE_S / 2, 3 * STORE_S)]))
    for _ in range(3):
        scene.led_by(scene.one(), groups=1)
        await scene.between(0.5, 1.5)


async def redis_restarted_empty(scene: Scene) -> None:
    """Restart Redis: it has forgotten everything."""
    scene.led_by(scene.one())
    await scene.between(0.05, 2.5)
    scene.fleet.redis.kill()
    scene.fleet.use(await scene.fleet.new_redis())
    scene.led_by(scene.one())
    await scene.between(0.5, 1.5)


async def redis_failed_over(scene: Scene) -> None:
    """Lose the master, and go on with a replica of it that has missed the last writes."""
    fleet, master = scene.fleet, scene.fleet.redis
    line = await fleet.line_to(master.port)
    standby = await fleet.new_redis("--replicaof", "127.0.0.1", str(line.port))
    await _in_step(standby)
    scene.led_by(scene.one())
    await scene.between(0.0, 1.0)
    line.stall()
    scene.led_by(scene.one())
    await scene.between(0.1, 1.5)
    master.kill()
    await scene.between(0.0, 0.5)
    await asyncio.to_thread(standby.ask, "REPLICAOF", "NO", "ONE")
    line.cut()
    fleet.use(standby)
    scene.led_by(scene.one())
    await scene.between(0.5, 1.5)


async def _in_step(standby: RedisServer) -> None:
    async with asyncio.timeout(_IN_STEP_S):
        while b"master_link_status:up" not in await asyncio.to_thread(standby.ask, "INFO", "replication"):  # noqa: ASYNC110 - a server can only be asked
            await asyncio.sleep(0.05)


async def line_cut(scene: Scene) -> None:
    """Cut one replica's line to Redis, and heal it."""
    one = scene.one()
    scene.led_by(one)
    scene.led_by(scene.others(one)[0])
    await scene.between(0.05, 2.0)
    one.line.cut()
    await scene.between(0.2, 4.0)
    one.line.heal()


async def line_half_open(scene: Scene) -> None:
    """Hold or swallow what goes over one replica's line, both ways or one, while it seems to be there; then heal it."""
    one = scene.one()
    scene.led_by(one)
    scene.led_by(scene.others(one)[0])
    await scene.between(0.05, 2.0)
    spoil = scene.rng.choice([one.line.stall, one.line.swallow])
    spoil(scene.rng.choice(_DIRECTIONS))
    await scene.between(0.1, 7.0)
    one.line.heal()


async def rolling_deploy(scene: Scene) -> None:
    """Stop each replica with SIGTERM once a new one is there; balancers notice sooner or later than its listener closes."""
    for old in scene.fleet.balanced:
        await scene.fleet.grow(1)
        scene.led_by(old)
        await scene.between(0.0, 2 * WINDOW_S)
        old.drain()
        await scene.between(0.0, 1.5 * GRACE_S)
        old.balanced = False
        await _ended(scene, old)


async def _ended(scene: Scene, old: Replica) -> None:
    code = await asyncio.to_thread(old.process.popen.wait, _ENDS_WITHIN_S)
    assert code == 0, f"a replica that was told to stop ended with {code}"
    scene.fleet.replicas.remove(old)


ALL: Mapping[str, Scenario] = MappingProxyType({
    scenario.__name__: scenario
    for scenario in (
        leader_killed_before_the_claim,
        leader_killed_at_the_claim,
        leader_killed_mid_stream,
        guest_killed,
        leader_frozen,
        redis_killed,
        redis_paused,
        redis_slow,
        redis_restarted_empty,
        redis_failed_over,
        line_cut,
        line_half_open,
        rolling_deploy,
    )
})  # fmt: skip
"""Each by its name, in the order in which they are played."""
