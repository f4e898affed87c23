"""The endpoints: reads a request, has it answered, and counts; knows nothing of sockets or of how it is served."""

from __future__ import annotations

import asyncio
import hmac
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from hashlib import blake2b

import orjson
from aiohttp import web

from proxy.simulated import wire_anthropic, wire_gemini
from proxy.simulated.answer import Answer
from proxy.simulated.arguments import broken_call
from proxy.simulated.asked import Asked, read_body, read_chat, read_model_name, read_text
from proxy.simulated.asked_response import Stored, as_chat
from proxy.simulated.composer import Composer
from proxy.simulated.dialects import DIALECTS, Dialect, read_dialect
from proxy.simulated.embeddings import embeddings
from proxy.simulated.faults import read_model
from proxy.simulated.mishaps import mishap, tool_use_failed
from proxy.simulated.options import Options
from proxy.simulated.refusals import RefusalError
from proxy.simulated.schema import Json
from proxy.simulated.stats import Recorded, Repeats, Stats
from proxy.simulated.talk import Talk, Wire
from proxy.simulated.tokens import Tokenizer
from proxy.simulated.wire import ChatWire, Head, usage
from proxy.simulated.wire_response import ResponseWire
from proxy.simulated.wire_text import TextWire

_MOST_CANNED = 256
_LONGEST_CANNED = 64_000
_INSTANT = "instant"
_CHAT = ChatWire()
_TEXT = TextWire()
_ANTHROPIC = wire_anthropic.AnthropicWire()
_GEMINI = wire_gemini.GeminiWire()
_DIALECT = web.RequestKey("dialect", Dialect)
Answering = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass(frozen=True, slots=True)
class _Canned:
    """What `instant` answered, kept for the next request of the same bytes."""

    asked: Asked = field(repr=False)
    answers: Sequence[Answer] = field(repr=False)
    head: Head
    body: bytes = field(repr=False)
    """The whole JSON answer; empty for a stream."""


class Service:
    """What stands behind the routes."""

    def __init__(self, options: Options, tokens: Tokenizer) -> None:
        self.options = options
        self.stats = Stats(record=options.record)
        self._tokens = tokens
        self._repeats = Repeats()
        self._named = Repeats()
        self._stored = Stored()
        self._canned: OrderedDict[bytes, _Canned] = OrderedDict()
        self._at_once = replace(options, tokens_per_second=None, first_token_s=0.0)
        self._created = int(time.time())

    def guarded(self, answering: Answering) -> Answering:
        """Return the handler behind the key check, with errors in OpenAI's form and leaving clients counted."""

        async def handle(request: web.Request) -> web.StreamResponse:
            try:
                self._authorise(request)
                return await answering(request)
            except RefusalError as error:
                refusal = error
            except web.HTTPRequestEntityTooLarge:
                refusal = RefusalError(413, "Request entity too large.", code="request_too_large")
            except (asyncio.CancelledError, ConnectionError):
                self.stats.left += 1
                raise
            self.stats.refused += 1
            return refusal.response(request.get(_DIALECT, DIALECTS["plain"]).errors)

        return handle

    def _authorise(self, request: web.Request) -> None:
        key = self.options.api_key
        if key is None:
            return
        scheme, _, given = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not hmac.compare_digest(given.strip().encode(), key.encode()):
            raise RefusalError(401, "Incorrect API key provided.", code="invalid_api_key")

    async def chat(self, request: web.Request) -> web.StreamResponse:
        """Answer `POST /v1/chat/completions`."""
        raw = await request.read()
        canned = self._canned.get(raw)
        if canned is not None:
            return await self._again(request, canned)
        asked = self._read(request, self._body(request, raw))
        return await self._answer(request, raw, asked, _CHAT)

    async def messages(self, request: web.Request) -> web.StreamResponse:
        """Answer Anthropic's `POST /v1/messages`."""
        raw = await request.read()
        request[_DIALECT] = DIALECTS["anthropic"]
        asked = self._read(request, wire_anthropic.chat_body(self._body(request, raw)), "anthropic")
        return await self._answer(request, raw, asked, _ANTHROPIC)

    async def generate(self, request: web.Request) -> web.StreamResponse:
        """Answer Gemini's `POST /models/NAME:generateContent` and `:streamGenerateContent`."""
        raw = await request.read()
        request[_DIALECT] = DIALECTS["gemini"]
        model, _, action = request.match_info["call"].rpartition(":")
        if action not in ("generateContent", "streamGenerateContent"):
            return await self.unknown(request)
        chat = wire_gemini.chat_body(model, self._body(request, raw), stream=action.startswith("stream"))
        return await self._answer(request, raw, self._read(request, chat, "gemini"), _GEMINI)

    def _read(self, request: web.Request, body: Json, dialect: str = "") -> Asked:
        """Return what a chat body asks for, in the one dialect that an endpoint speaks or in the one that is usual here."""
        usual = dialect or self.options.dialect
        request[_DIALECT] = read_model_name(body, usual).dialect
        return read_chat(body, self._tokens, usual)

    async def completions(self, request: web.Request) -> web.StreamResponse:
        """Answer `POST /v1/completions`."""
        raw = await request.read()
        return await self._answer(request, raw, read_text(self._body(request, raw), self._tokens), _TEXT)

    def _first_only(self, asked: Asked) -> Asked:
        """Take the fault away that is meant for an earlier request of this model."""
        if asked.fault is None or asked.fault.scope != "first":
            return asked
        _, before = self._named.next(asked.model.encode())
        return replace(asked, fault=None) if before else asked

    async def responses(self, request: web.Request) -> web.StreamResponse:
        """Answer `POST /v1/responses`."""
        raw = await request.read()
        body = self._body(request, raw)
        chat, conversation = as_chat(body, self._stored)
        wire = ResponseWire(body, conversation, None if body.get("store") is False else self._stored)
        return await self._answer(request, raw, replace(self._read(request, chat), include_usage=True), wire)

    def _body(self, request: web.Request, raw: bytes) -> Json:
        body = read_body(raw)
        if self.options.record:
            headers = {name.lower(): value for name, value in request.headers.items()}
            self.stats.keep(Recorded(request.path, headers, body))
        return body

    async def _answer(self, request: web.Request, raw: bytes, asked: Asked, wire: Wire) -> web.StreamResponse:
        started = self.options.clock()
        asked = self._first_only(asked)
        self.stats.asked(asked.model, entries=len(asked.entries.keys) if asked.entries else 0)
        with self.stats.open(request.path, stream=asked.stream):
            digest, before = self._repeats.next(raw)
            fault = asked.fault.name if asked.fault else ""
            if (response := mishap(fault, first=before == 0)) is not None:
                return response
            seed = f"{self.options.seed}/{digest}/{before}"
            answers = Composer(asked, seed, self.options.content_words, self._tokens).compose()
            if fault == "tool_use_failed":
                raise tool_use_failed(orjson.dumps({"name": asked.form.tool, "arguments": answers[0].text}).decode())
            failure = broken_call(asked, answers)
            self.stats.prompt_tokens += asked.prompt_tokens
            head = Head(f"{wire.prefix}{blake2b(seed.encode(), digest_size=12).hexdigest()}", asked.model, int(time.time()))
            if asked.model == _INSTANT and wire is _CHAT:
                self._keep(raw, asked, answers, head)
            options = self._at_once if asked.model == _INSTANT else self.options
            talk = Talk(request, asked, answers, head, wire, options, self.stats, started, failure)
            return await (talk.stream() if asked.stream else talk.whole())

    def _keep(self, raw: bytes, asked: Asked, answers: Sequence[Answer], head: Head) -> None:
        if len(raw) > _LONGEST_CANNED or self.options.record:
            return
        used = usage(asked.prompt_tokens, sum(answer.tokens for answer in answers))
        body = b"" if asked.stream else _CHAT.completion(head, answers, used, asked.dialect)
        self._canned[raw] = _Canned(asked, answers, head, body)
        if len(self._canned) > _MOST_CANNED:
            self._canned.popitem(last=False)

    async def _again(self, request: web.Request, canned: _Canned) -> web.StreamResponse:
        """Answer as the first time, at the least cost."""
        asked, stats = canned.asked, self.stats
        stats.asked(asked.model, entries=len(asked.entries.keys) if asked.entries else 0)
        stats.prompt_tokens += asked.prompt_tokens
        with stats.open(request.path, stream=asked.stream):
            if not asked.stream:
                stats.completion_tokens += sum(answer.tokens for answer in canned.answers)
                return web.Response(body=canned.body, content_type="application/json")
            return await Talk(request, asked, canned.answers, canned.head, _CHAT, self._at_once, stats, self.options.clock()).stream()

    async def embeddings(self, request: web.Request) -> web.StreamResponse:
        """Answer `POST /v1/embeddings`."""
        body = self._body(request, await request.read())
        named = read_model_name(body)
        model, fault = named.model, named.fault
        self.stats.asked(model, entries=0)
        with self.stats.open(request.path, stream=False):
            if fault is not None and fault.hits(batch=False) and (response := mishap(fault.name, first=False)) is not None:
                return response
            answer = embeddings(body, model, self._tokens)
            self.stats.prompt_tokens += answer["usage"]["prompt_tokens"]
            return _json(answer)

    async def models(self, _: web.Request) -> web.StreamResponse:
        """Answer `GET /v1/models`."""
        return _json({"object": "list", "data": [self._model(name) for name in self.options.models]})

    async def model(self, request: web.Request) -> web.StreamResponse:
        """Answer `GET /v1/models/{id}`: the listed models, and these with a known fault."""
        name = request.match_info["id"]
        try:
            plain, _ = read_model(read_dialect(name, self.options.dialect)[0])
        except KeyError:
            plain = ""
        if plain not in self.options.models:
            raise RefusalError(404, f"The model {name!r} does not exist.", code="model_not_found", param="model")
        return _json(self._model(name))

    def _model(self, name: str) -> Json:
        return {"id": name, "object": "model", "created": self._created, "owned_by": "simulated"}

    async def health(self, _: web.Request) -> web.StreamResponse:
        """Answer `GET /health`."""
        return _json({"status": "ok"})

    async def show_stats(self, request: web.Request) -> web.StreamResponse:
        """Answer `GET /stats`; `DELETE` starts counting anew."""
        if request.method == "DELETE":
            self.stats.reset()
        return _json(self.stats.as_json())

    async def redirected(self, _: web.Request) -> web.StreamResponse:
        """Answer whoever followed a redirect."""
        self.stats.redirected += 1
        return _json({"redirected": True})

    async def unknown(self, request: web.Request) -> web.StreamResponse:
        """Answer every other path."""
        raise RefusalError(404, f"Invalid URL ({request.method} {request.path})", code="unknown_url")


def _json(value: Json) -> web.Response:
    return web.Response(body=orjson.dumps(value), content_type="application/json")
