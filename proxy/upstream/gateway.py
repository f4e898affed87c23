"""The providers behind one face: which way each call goes, and what it may use up; it knows no window and no lesson.

A model name leads to one deployment (the direct path where its provider speaks OpenAI's API, litellm else) or to a group or a
name with fallbacks (litellm.Router). A batch always goes through litellm, to exactly the deployment that was picked for it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager
from copy import deepcopy
from dataclasses import replace
from functools import partial
from typing import Any, cast

import orjson

from proxy.errors import NotFoundError, UnauthorizedError
from proxy.model import PAYER, Call, Caller, Deployment, Json, Piece, Reply
from proxy.upstream import library, responses, translated
from proxy.upstream.config import UpstreamConfig, UpstreamConfigError
from proxy.upstream.deployments import Routes, Target, mistakes
from proxy.upstream.direct import Direct
from proxy.upstream.foreign import from_litellm
from proxy.upstream.patience import Patience
from proxy.upstream.pieces import PieceStream, whole
from proxy.upstream.providers import OPENAI_COMPATIBLE
from proxy.upstream.responses import Speakers
from proxy.upstream.router import build, choose
from proxy.upstream.slots import Slots
from proxy.upstream.splice import splice_model
from proxy.upstream.warmup import warm
from proxy.upstream.ways import Way, Ways

_WARM_S = 60.0
_DEFAULT_TIMEOUT_S = 600.0
_CHAT_PATH = "/v1/chat/completions"
_DROPPED_BY_LITELLM = frozenset({"tools", "tool_choice", "parallel_tool_calls", "response_format", "stream_options"})
"""litellm drops or refuses these for some providers that take them; the batch was built for what the provider can do."""
_READ_BY_LITELLM = _DROPPED_BY_LITELLM | {"messages", "max_tokens", "max_completion_tokens", "user"}
"""What it is told by name of a call for a provider that speaks OpenAI's API: by its tables it gives limits another name, and
leaves out a user that isn't known there. By the same tables it would refuse others (`reasoning_effort`, `service_tier`) that
the provider takes of a call on the direct path, which goes as it was written."""
_ROUTERS_OWN = frozenset({"rpm", "tpm", "weight", "order", "tags", "max_parallel_requests", "cooldown_time"})


class Gateway:
    """`interfaces.Upstream`; `open` before use, `aclose` after. Raises UpstreamConfigError for what can't work."""

    def __init__(self, config: UpstreamConfig, *, patience: Patience | None = None) -> None:
        if found := mistakes(config):
            raise UpstreamConfigError(found)
        self._config = config
        self._timeout_s = config.timeout_s or _DEFAULT_TIMEOUT_S
        self._patience = patience or Patience(config.num_retries)
        self._ways = Ways(config)
        self._speakers = Speakers()
        self._slots = Slots(config.slots)
        self._direct = Direct(connections=config.slots, timeout_s=self._timeout_s)
        self._litellm: Any = None
        self._router: Any = None

    async def open(self) -> None:
        """Bring litellm in, check every name with it, and warm it up (seconds, the first time in a process)."""
        self._litellm = library.load(self._config.litellm_settings)
        library.enter(self)
        try:
            self._router = build(self._litellm, self._config, self._ways.routes)
            self._direct.open()
            self._ways.open(self._litellm)
            await self._warm()
        except BaseException:
            await self.aclose()
            raise

    async def _warm(self) -> None:
        try:
            async with asyncio.timeout(_WARM_S):
                await warm(self._litellm)
        except Exception as error:
            # the border: better no start than a first batch that finds litellm broken
            raise UpstreamConfigError([f"litellm fails a call to this machine itself: {type(error).__name__}"]) from error

    async def aclose(self) -> None:
        """Close every connection; calls that still run are cut off."""
        await self._direct.aclose()
        if self._router is not None:
            self._router.discard()
            self._router = None
        if self._litellm is not None:
            await library.leave(self._litellm, self)

    @property
    def slots_taken(self) -> int:
        """Return how many calls are upstream."""
        return self._slots.taken

    def knows(self, model: str) -> bool:
        """Tell whether the configuration has a deployment for this alias."""
        return self._ways.knows(model)

    def models(self) -> tuple[Json, ...]:
        """Return the model objects of `GET /v1/models`; patterns name no model and are left out."""
        return self._ways.models()

    def max_output_tokens(self, model: str) -> int | None:
        """Return the smallest output limit among the alias's deployments; None: not known of any."""
        limits = [d.capability.max_output_tokens for d in self._ways.find(model).deployments]
        return min((limit for limit in limits if limit is not None), default=None)

    async def pick(self, model: str, caller: Caller) -> Deployment:
        """Choose the deployment that a batch goes to; raises UpstreamRateLimitedError where all are in cooldown."""
        way = self._ways.find(model)
        _check_bearer(way, caller)
        if len(way.deployments) == 1:
            return way.deployments[0]
        try:
            target = await choose(self._router, way.route.alias, way.route.targets)
        except Exception as error:
            # the border: litellm raises what it likes
            raise from_litellm(error, secrets=way.secrets) from error
        return way.deployments[way.route.targets.index(target)]

    @asynccontextmanager
    async def stream(self, deployment: Deployment, body: Json, caller: Caller) -> AsyncGenerator[AsyncIterator[Piece]]:
        """Send a batch once, without retries or fallbacks; leaving the context closes the call upstream."""
        target = self._ways.target(deployment)
        secrets = None if target.entry.api_key_is_callers else self._ways.keys
        translate = partial(from_litellm, secrets=secrets)
        with self._slots.take():
            try:
                source = await self._start(target, deployment, body, caller)
            except Exception as error:
                # the border: litellm raises what it likes
                raise translate(error) from error
            try:
                yield PieceStream(source, translate) if deployment.capability.stream else _listed(source)
            finally:
                await translated.close_source(source)

    async def send(self, call: Call, model: str, *, lesson: bool) -> Reply:
        """Send the caller's own request alone: as raw bytes where the provider takes them, else through litellm.

        A lesson is repeated on 429, 5xx and network failures as `num_retries` says, anything else never. Upstream's own
        errors come back as a Reply; the network's are raised. Raises OverloadedError where no slot is free.
        """
        way = self._ways.find(model)
        _check_bearer(way, call.caller)
        if call.path != responses.PATH:
            return await self._sent(call, way, lesson=lesson)
        if not self._speakers.have_it(way.deployments):
            return await self._repeated_translated(call, way, lesson=lesson)
        reply = await self._sent(call, way, lesson=lesson)
        # a server without the path has done nothing yet
        return await self._repeated_translated(call, way, lesson=lesson) if self._speakers.learn(call, reply, way.deployments) else reply

    async def _sent(self, call: Call, way: Way, *, lesson: bool) -> Reply:
        if way.address is not None:
            body = _body(call, way.address.model)
            if not lesson:
                return await self._direct.send(call, body, way.address, self._slots.take(), plain=False)
            place = way.address
            return await self._patience.repeated(lambda: self._direct.send(call, body, place, self._slots.take(), plain=True))
        return await self._repeated_translated(call, way, lesson=lesson)

    async def _repeated_translated(self, call: Call, way: Way, *, lesson: bool) -> Reply:
        if lesson and not way.route.routed:
            return await self._patience.repeated(lambda: self._translated(call, way, retries=0))
        return await self._translated(call, way, retries=self._config.num_retries if lesson else 0)

    async def _translated(self, call: Call, way: Way, *, retries: int) -> Reply:
        name = translated.method(call.path)
        if call.method != "POST":
            raise NotFoundError(f"{call.path} is asked by POST.")
        translated.check(call.path, call.body)
        translate = partial(from_litellm, secrets=way.secrets)
        slot, handed_over = self._slots.take(), False
        try:
            answer = await self._lone(name, call, way, retries)
            if call.body.get("stream") is not True:
                return self._whole(call, answer, way)
            reply = await translated.RenderedStream(answer, slot, translate, self._events(call, way)).begin()
            handed_over = True
        except Exception as error:  # noqa: BLE001 - the border: litellm raises what it likes
            return translated.as_reply(translate(error))
        else:
            return reply
        finally:
            if not handed_over:
                slot.release()

    def _whole(self, call: Call, answer: Any, way: Way) -> Reply:
        if call.path != responses.PATH:
            return translated.json_reply(answer)
        told = responses.rendered(answer, call.body, translated=self._becomes_chat(call, way))
        return Reply(200, translated.JSON_HEADERS, orjson.dumps(told))

    def _events(self, call: Call, way: Way) -> translated.Events:
        if call.path != responses.PATH:
            return translated.ChunkEvents(usage=_wants_usage(call.body))
        return responses.ResponseEvents(call.body, translated=self._becomes_chat(call, way))

    def _becomes_chat(self, call: Call, way: Way) -> bool:
        """Tell whether litellm turns a call of the Responses API into a chat call for this model."""
        if not self._speakers.have_it(way.deployments):
            return True
        stream = call.body.get("stream") is True
        return not all(library.has_responses(self._litellm, d.provider, d.model, stream=stream) for d in way.deployments)

    def _asked(self, call: Call, way: Way, own_extra: Mapping[str, Any] | None = None) -> dict[str, Any]:
        if call.path == _CHAT_PATH and _goes_as_written(way, self._ways.routes):
            return _as_written(call.body, own_extra)
        if call.path != responses.PATH:
            return translated.arguments(call.path, call.body, own_extra)
        becomes_chat = self._becomes_chat(call, way)
        if becomes_chat:
            responses.check_translatable(call.body)
        return responses.arguments(call.body, own_extra, translate=becomes_chat)

    async def _lone(self, name: str, call: Call, way: Way, retries: int) -> Any:
        # litellm rewrites schemas in place for some providers, and the caller's may go upstream once more
        call = replace(call, body=deepcopy(call.body))
        if way.route.routed:
            asked = self._asked(call, way) | {"num_retries": retries}
            return await getattr(self._router, name)(model=way.route.alias, **asked)
        target = way.route.targets[0]
        asked = self._asked(call, way, target.entry.litellm_params.get("extra_body"))
        return await getattr(self._litellm, name)(**(self._parameters(target, way.deployments[0], call.caller) | asked))

    async def _start(self, target: Target, deployment: Deployment, body: Json, caller: Caller) -> Any:
        if deployment.capability.stream:
            usage = {"stream_options": {"include_usage": True}} if deployment.capability.usage_in_stream else {}
            body = {**body, "stream": True, **usage}
        speaks_openais, own_extra = deployment.provider in OPENAI_COMPATIBLE, target.entry.litellm_params.get("extra_body")
        asked = _as_written(body, own_extra) if speaks_openais else translated.arguments(_CHAT_PATH, body, own_extra)
        if speaks_openais and (account := _account(target, caller)):
            asked["extra_headers"] = {**target.entry.litellm_params.get("extra_headers", {}), **account}
        if self._ways.goes_by_router(target):
            # so that it learns how the deployment does; a pattern it would call under the pattern's name
            return await self._router.acompletion(model=target.id, num_retries=0, disable_fallbacks=True, **asked)
        return await self._litellm.acompletion(**(self._parameters(target, deployment, caller) | asked))

    def _parameters(self, target: Target, deployment: Deployment, caller: Caller) -> dict[str, Any]:
        """Return litellm's arguments for one call to exactly this deployment, once."""
        own = {name: value for name, value in target.entry.litellm_params.items() if name not in _ROUTERS_OWN}
        own.setdefault("timeout", self._timeout_s)
        own |= {"model": _litellm_name(target, deployment), "num_retries": 0, "max_retries": 0}
        own.pop("extra_body", None)
        if target.entry.api_key_is_callers and caller.bearer is not None:
            own["api_key"] = caller.bearer.value
        return own


def _litellm_name(target: Target, deployment: Deployment) -> str:
    """Return litellm's name of the model; a pattern's stars are filled with what upstream's own name says."""
    if "*" not in target.model:
        return target.model
    provider, slash, _ = target.model.partition("/")
    return f"{provider}{slash}{deployment.model}" if slash and "*" not in provider else deployment.model


def _goes_as_written(way: Way, routes: Routes) -> bool:
    """Tell whether a lone call may go to each of its deployments as it was written.

    Not where litellm may fall back to others, nor where it chooses one that has an `extra_body` of the operator's, which would be
    lost.
    """
    if way.route.routed and (routes.falls_back(way.route.name) or any("extra_body" in t.entry.litellm_params for t in way.route.targets)):
        return False
    return all(deployment.provider in OPENAI_COMPATIBLE for deployment in way.deployments)


def _as_written(body: Json, own_extra: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return litellm's arguments for a provider that speaks OpenAI's API, so that litellm refuses and drops nothing of the body."""
    asked = translated.arguments(_CHAT_PATH, body, own_extra, named_fields=_READ_BY_LITELLM)
    return asked | {"allowed_openai_params": sorted(_DROPPED_BY_LITELLM & asked.keys())}


def _account(target: Target, caller: Caller) -> dict[str, str]:
    """Return the callers' headers on their account; who pays is not theirs to say where the key isn't theirs."""
    return {name: value for name, value in caller.account if target.entry.api_key_is_callers or name not in PAYER}


def _check_bearer(way: Way, caller: Caller) -> None:
    if way.secrets is None and caller.bearer is None:
        raise UnauthorizedError("You didn't provide an API key. Send your own key as a bearer in the Authorization header.")


def _body(call: Call, name: str) -> bytes:
    """Return the request's bytes, with upstream's name of the model where it is another."""
    said = call.body.get("model")
    if said is None or said == name:
        return call.raw
    spliced = splice_model(call.raw, name)
    return orjson.dumps({**call.body, "model": name}) if spliced is None else spliced


def _wants_usage(body: Json) -> bool:
    options: Any = body.get("stream_options")
    return isinstance(options, dict) and cast("Json", options).get("include_usage") is True


async def _listed(response: Any) -> AsyncIterator[Piece]:
    for piece in whole(response):
        yield piece
