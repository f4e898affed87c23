"""Merging on every provider's dialect, through the whole proxy and real litellm: each caller gets its own valid lesson, none is resent."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest
from litellm.router_strategy import simple_shuffle

from proxy.dispatch.listening import USAGE_GRACE_S
from proxy.observe.events import BatchFinished
from tests.contract.dialects import PATIENT, SHAPES, Deployed, check_own, learners, scene

# litellm's own, as it reads its pydantic models
pytestmark = pytest.mark.filterwarnings("ignore:Accessing the 'model_(computed_)?fields' attribute on the instance:DeprecationWarning")

HONEST: dict[str, Deployed] = {
    "openai": ("openai/gpt-4.1", "openai", {"like": "openai"}),
    "openai reasoning": ("openai/gpt-5-mini", "openai", {"like": "openai"}),
    "unknown": ("openai/some-model", "plain", {}),
    "groq": ("groq/llama-3.3-70b-versatile", "groq", {}),
    "groq gpt-oss": ("groq/openai/gpt-oss-120b", "groq", {}),
    "cerebras": ("cerebras/gpt-oss-120b", "cerebras", {}),
    "deepinfra": ("deepinfra/openai/gpt-oss-120b", "deepinfra", {}),
    "mistral": ("mistral/mistral-large-latest", "mistral", {}),
    "vllm": ("hosted_vllm/openai/gpt-oss-120b", "vllm", {}),
    "llama.cpp": ("openai/local-small", "llama.cpp", {"like": "llama.cpp"}),
    "fireworks": ("fireworks_ai/accounts/fireworks/models/llama-v3p3-70b-instruct", "fireworks", {}),
    "anthropic": ("anthropic/claude-sonnet-4-5", "anthropic", {}),
    "anthropic older": ("anthropic/claude-3-haiku-20240307", "anthropic", {}),
    "anthropic unforced": ("anthropic/claude-opus-5-5", "anthropic", {}),
    "gemini": ("gemini/gemini-2.5-flash", "gemini", {}),
    "gemini unknown": ("gemini/gemini-of-tomorrow", "gemini", {}),
}

CARRIERS = {
    "openai": "tool json_schema tool tool",
    "openai reasoning": "tool json_schema tool tool",
    "unknown": "tool json_schema tool tool",
    "groq": "tool tool tool tool",
    "groq gpt-oss": "tool json_schema tool tool",
    "cerebras": "tool json_schema tool tool",
    "deepinfra": "json_schema json_schema json_schema json_schema",
    "mistral": "json_schema json_schema json_schema json_schema",
    "vllm": "tool json_schema tool tool",
    "llama.cpp": "tool json_schema json_object json_object",
    "fireworks": "tool json_schema tool tool",
    "anthropic": "tool json_schema tool tool",
    "anthropic older": "tool tool tool tool",
    "anthropic unforced": "json_schema json_schema json_object json_schema",
    "gemini": "json_schema json_schema json_object json_schema",
    "gemini unknown": "tool tool json_object tool",
}
"""What carries the batch of each of SHAPES."""


@pytest.mark.parametrize("stream", [False, True], ids=["json", "stream"])
@pytest.mark.parametrize("name", HONEST)
async def test_every_caller_gets_its_own_lesson_and_none_is_resent(name: str, *, stream: bool) -> None:
    """All four shapes, one batch each: one call upstream, and nothing that its provider refuses."""
    more: dict[str, Any] = {"max_completion_tokens" if "reasoning" in name else "max_tokens": 1500, "stream": stream}
    async with scene(HONEST[name]) as here:
        for shape in SHAPES:
            answers = await here.lessons(shape, **more)
            for answer, learner in zip(answers, learners(3), strict=True):
                assert (answer.headers.get("x-lesson-merged"), answer.headers.get("x-lesson-reason")) == ("true", None), (
                    shape,
                    here.batches,
                )
                check_own(answer, shape, learner)
        assert [batch.completed for batch in here.batches] == [3] * len(SHAPES)
        assert " ".join(batch.carrier or "" for batch in here.batches) == CARRIERS[name]
        assert here.providers[0].stats.refused == 0
        assert here.providers[0].stats.requests == len(SHAPES)
        assert not any(map(_counted, here.batches))


def _counted(batch: BatchFinished) -> bool:
    """Tell whether upstream did not tell the usage, on a machine that had the time to listen to it."""
    return batch.usage_estimated and batch.total_s < USAGE_GRACE_S


OTHERS = ("deepseek", "fireworks_ai", "lm_studio", "llamafile", "moonshot", "openrouter", "perplexity", "together_ai", "xai")


@pytest.mark.parametrize("provider", OTHERS)
async def test_nothing_of_a_carrier_is_lost_on_the_way_through_litellm(provider: str) -> None:
    """What the table trusts a provider with arrives: a tool that is forced, or a response_format."""
    async with scene((f"{provider}/m", "plain", {})) as here:
        for shape in SHAPES:
            for answer, learner in zip(await here.lessons(shape, max_tokens=1500), learners(3), strict=True):
                assert answer.headers["x-lesson-merged"] == "true", (shape, here.batches)
                check_own(answer, shape, learner)
        for body in here.upstream_bodies:
            assert body.get("tool_choice", "auto") != "auto" or body["response_format"]["type"] != "text"


STRICT = {name: HONEST[name] for name in ("openai", "openai reasoning", "groq gpt-oss", "cerebras", "mistral", "vllm")}


@pytest.mark.parametrize("shape", ["tool", "json_schema"])
@pytest.mark.parametrize("name", STRICT)
async def test_callers_that_ask_for_strict_get_what_they_ask_for(name: str, shape: str) -> None:
    """Where strict mode has limits the batch keeps them; what it may not say in keywords, the model still hears."""
    async with scene(STRICT[name]) as here:
        answers = await here.lessons(shape, strict=True)
        for answer, learner in zip(answers, learners(3), strict=True):
            assert answer.headers["x-lesson-merged"] == "true", here.batches
            check_own(answer, shape, learner)
        (body,) = here.upstream_bodies
    function = body["tools"][0]["function"] if "tools" in body else body["response_format"]["json_schema"]
    if "openai" in name:
        assert function["strict"] is True
        schema = (function.get("parameters") or function.get("schema"))["$defs"]["item"]
        assert "minLength" not in schema["properties"]["content"]
        assert "minLength" in schema["properties"]["content"]["description"]


GROQ = ("groq/llama-3.3-70b-versatile", "groq/openai/gpt-oss-120b")


@pytest.mark.parametrize("fault", ["invalid", "missing", "tool_use_failed"])
@pytest.mark.parametrize(("model", "shape"), [(GROQ[0], "tool"), (GROQ[1], "tool"), (GROQ[1], "json_schema")])
async def test_what_groq_fails_the_whole_batch_for_costs_one_lesson(model: str, shape: str, fault: str) -> None:
    """`failed_generation` is read, as a status or as an event of the stream: one caller is resent, and merging goes on."""
    async with scene((f"{model}+{fault}", "groq", {})) as here:
        for _ in range(4):
            answers = await here.lessons(shape, max_tokens=1500)
            for answer, learner in zip(answers, learners(3), strict=True):
                check_own(answer, shape, learner)
            reasons = [answer.headers.get("x-lesson-reason", "").partition(":")[0] for answer in answers]
            assert sorted(reasons) == ["", "", "resent"]
    assert [(batch.completed, batch.usage_estimated) for batch in here.batches] == [(2, True)] * 4


async def test_a_slip_that_groq_would_fail_the_batch_for_is_no_rule_there() -> None:
    """What we look at anyway is told it in words: the provider finds nothing to object to, and tells the usage."""
    async with scene(("groq/llama-3.3-70b-versatile+unknown", "groq", {})) as here:
        for answer, learner in zip(await here.lessons("tool"), learners(3), strict=True):
            assert answer.headers["x-lesson-merged"] == "true"
            check_own(answer, "tool", learner)
    (batch,) = here.batches
    assert batch.dropped == (("unknown", 1),)
    assert not _counted(batch)


TOLD_OF_CALLS = {"leaked": "vllm", "fenced": "vllm", "text": "deepinfra", "parallel": "vllm", "whole": "vllm", "double_encoded": "cerebras"}


@pytest.mark.parametrize("fault", [*TOLD_OF_CALLS, "array", "stringified", "reordered", "doubled"])
@pytest.mark.parametrize("model", ["hosted_vllm/openai/gpt-oss-120b", "hosted_vllm/llama"])
async def test_what_models_make_of_a_call_is_read_all_the_same(model: str, fault: str) -> None:
    """Calls that leak into the content, several calls at index 0, other forms: everybody has a lesson of its own, none is resent."""
    async with scene((f"{model}+{fault}", "vllm", {})) as here:
        for stream in (False, True):
            answers = await here.lessons("tool", max_tokens=1500, stream=stream)
            for answer, learner in zip(answers, learners(3), strict=True):
                assert answer.headers["x-lesson-merged"] == "true", here.batches
                check_own(answer, "tool", learner)


CLAUDES = ("claude-sonnet-4-5", "claude-3-7-sonnet-20250219", "claude-opus-5-5")
"""One whose output schemas Anthropic takes, one that must be told the form in words, one that always thinks."""


SPOKEN = [name for name in HONEST if name in ("openai", "groq", "cerebras", "deepinfra", "mistral", "vllm", "anthropic", "gemini")]


@pytest.mark.parametrize("fault", ["429_too_large", "context_length", "413", "429", "401"])
@pytest.mark.parametrize("name", SPOKEN)
async def test_errors_keep_their_meaning_in_the_form_of_every_provider(name: str, fault: str) -> None:
    """Too large: halved, then alone; too often: told with `retry-after`; denied: told, in words that show no key."""
    model, dialect, lessons = HONEST[name]
    async with scene((f"{model}+{fault}@batch", dialect, lessons), router_settings={"num_retries": 0}) as here:
        answers = await here.lessons("tool", max_tokens=1500)
    (batch,) = here.batches
    if fault in ("429", "401"):
        assert [answer.status for answer in answers] == [int(fault)] * 3
        assert batch.refused == 3
        assert (fault == "429") is all("retry-after" in answer.headers for answer in answers)
        assert not any(b"sk-of-the-operator" in answer.body for answer in answers)
    else:
        assert batch.failed == (("too_large", 3),)


@pytest.mark.parametrize("model", CLAUDES)
async def test_no_tool_is_forced_beside_thinking(model: str) -> None:
    """Anthropic refuses it: the batch goes as a schema, or in words; each caller has its tool call all the same."""
    async with scene((f"anthropic/{model}", "anthropic", {})) as here:
        for shape in SHAPES:
            answers = await here.lessons(shape, max_tokens=4000, thinking={"type": "enabled", "budget_tokens": 1024})
            for answer, learner in zip(answers, learners(3), strict=True):
                assert answer.headers["x-lesson-merged"] == "true", (shape, here.batches)
                check_own(answer, shape, learner)
        assert all(body["thinking"]["type"] in ("enabled", "adaptive") for body in here.upstream_bodies)
        assert not any(body.get("tool_choice", {}).get("type") in ("any", "tool") for body in here.upstream_bodies)


@pytest.mark.parametrize("name", [name for name in HONEST if name != "unknown"])
async def test_what_is_not_told_of_the_usage_is_counted_and_marked(name: str) -> None:
    model, dialect, lessons = HONEST[name]
    async with scene((f"{model}+no_usage", dialect, lessons)) as here:
        answers = await here.lessons("tool")
        for answer, learner in zip(answers, learners(3), strict=True):
            assert answer.headers["x-lesson-merged"] == "true", here.batches
            check_own(answer, "tool", learner)
    (batch,) = here.batches
    assert batch.usage_estimated
    shares = [answer.json["usage"] for answer in answers]
    assert sum(share["prompt_tokens"] for share in shares) + batch.unassigned.prompt == batch.usage.prompt > 100
    assert sum(share["completion_tokens"] for share in shares) + batch.unassigned.completion == batch.usage.completion > 100


async def test_thoughts_are_no_lessons_and_their_tokens_are_shared_out() -> None:
    async with scene(HONEST["cerebras"]) as here:
        answers = await here.lessons("tool")
        for answer, learner in zip(answers, learners(3), strict=True):
            check_own(answer, "tool", learner)
    (batch,) = here.batches
    assert batch.usage.reasoning > 0
    told = [answer.json["usage"].get("completion_tokens_details", {}).get("reasoning_tokens", 0) for answer in answers]
    assert sum(told) + batch.unassigned.reasoning == batch.usage.reasoning


async def test_deployments_of_different_providers_under_one_alias() -> None:
    """Each batch is built for the one that it goes to, whichever that is."""
    group = (HONEST["groq gpt-oss"], HONEST["cerebras"], HONEST["deepinfra"], HONEST["mistral"])
    async with scene(*group) as here:
        for round_ in range(9):
            for shape in SHAPES:
                answers = await here.lessons(shape, stream=round_ % 2 == 1, user=f"u-{round_}", max_tokens=1500)
                for answer, learner in zip(answers, learners(3), strict=True):
                    assert answer.headers["x-lesson-merged"] == "true", here.batches[-1]
                    check_own(answer, shape, learner)
        assert sum(provider.stats.refused for provider in here.providers) == 0
    assert {batch.provider for batch in here.batches} == {"groq", "cerebras", "deepinfra", "mistral"}


@pytest.mark.parametrize("seed", [0, 1])  # orders in which both are asked, and the broken one not so often that merging rests
async def test_a_group_goes_on_where_one_of_its_providers_fails(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch that it broke is resent through the others."""
    monkeypatch.setattr(simple_shuffle, "random", Random(seed))  # litellm's choice between the two, the same in every run
    broken: Deployed = ("groq/openai/gpt-oss-120b+500@batch", "groq", {})
    async with scene(broken, HONEST["cerebras"]) as here:
        for round_ in range(4):
            for answer, learner in zip(await here.lessons("tool", user=f"u-{round_}"), learners(3), strict=True):
                check_own(answer, "tool", learner)
    assert {(batch.deployment, batch.completed) for batch in here.batches} == {("m#0", 0), ("m#1", 3)}
    assert sum(batch.deployment == "m#0" for batch in here.batches) <= 3, "more resends than are allowed in ten seconds"


UNLIMITED: dict[int, Deployed] = {2048: HONEST["fireworks"], 4096: ("anthropic/claude-of-tomorrow", "anthropic", {})}
"""By the tokens that are written at most where a request names no limit: by the provider, or because litellm names it."""


@pytest.mark.parametrize("most", UNLIMITED)
async def test_where_the_provider_has_a_limit_of_its_own_a_batch_names_its_sum(most: int) -> None:
    """It is enough for each alone, and too little for all."""
    async with scene(UNLIMITED[most], content_words=900) as here:
        for answer, learner in zip(await here.lessons("tool", 5), learners(5), strict=True):
            assert answer.headers["x-lesson-merged"] == "true", here.batches
            check_own(answer, "tool", learner)
        assert here.upstream_bodies[0]["max_tokens"] > 5 * most
    assert here.batches[0].usage.completion > most


async def test_never_more_output_is_asked_for_than_the_model_writes() -> None:
    """The window makes several batches, side by side, of what doesn't fit in one."""
    async with scene(("hosted_vllm/m", "vllm", {"max_output_tokens": 2000})) as here:
        for answer, learner in zip(await here.lessons("tool", 5, max_tokens=900), learners(5), strict=True):
            check_own(answer, "tool", learner)
        assert [body["max_tokens"] <= 2000 for body in here.upstream_bodies] == [True] * len(here.upstream_bodies)
    assert sorted(batch.size for batch in here.batches) == [2, 2]
    assert all(batch.completed == batch.size for batch in here.batches)


@pytest.mark.parametrize(
    "deployed", [("hosted_vllm/m", "vllm", {}), ("groq/llama-3.3-70b-versatile", "groq", {})], ids=["streamed", "whole"]
)
async def test_a_models_speed_bounds_its_batches(deployed: Deployed) -> None:
    """Once it is known, a lesson of a quarter of a second leaves room for one before it, and the rest goes side by side."""
    patient = PATIENT | {"merge": {"max_added_seconds": {"json": 0.3, "stream": 0.3}}}
    async with scene(deployed, content_words=120, tokens_per_second=1000, lessons=patient) as here:
        await here.lessons("tool", 5, user="u-0")
        assert [batch.size for batch in here.batches] == [5]
        for answer, learner in zip(await here.lessons("tool", 5, user="u-1"), learners(5), strict=True):
            check_own(answer, "tool", learner)
        assert here.providers[0].stats.most_open > 1
    assert max((batch.size for batch in here.batches[1:]), default=0) <= 2


async def test_a_lone_lesson_that_is_sent_again_is_the_same_one() -> None:
    """litellm rewrites the schemas that it is handed for Gemini: not the caller's own."""
    part = {"type": "object", "properties": {"level": {"type": ["string", "null"], "minLength": 3}}, "additionalProperties": False}
    schema = {"type": "object", "properties": {"title": {"$ref": "#/$defs/T"}, "content": {"type": "string"}}, "$defs": {"T": part}}
    tools = [{"type": "function", "function": {"name": "create_lesson", "parameters": schema}}]
    async with scene(("gemini/gemini-2.5-flash+500_once", "gemini", {})) as here:
        (answer,) = await here.lessons("tool", 1, tools=tools)
        assert answer.status == 200, answer.body
        first, second = here.upstream_bodies
    assert first == second
