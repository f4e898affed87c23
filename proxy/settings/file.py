"""The whole configuration file as one frozen value; it knows no other room's types but the lesson policy.

Plain pydantic on purpose, not a settings class that reads the environment by itself: a variable that happens to be called
`ACCESS` or `LOG` must change nothing. Only `os.environ/NAME` in the file reads the environment.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from proxy.policy import IdentityPolicy, LessonPolicy
from proxy.settings.edges import Access, Bounds, Log, Passthrough, Redis
from proxy.settings.lessons import LessonSettings
from proxy.settings.providers import LitellmSettings, ModelEntry, RouterSettings
from proxy.settings.section import Section

_DEFAULT_RETRIES = 2


class Settings(Section):
    """Everything that an operator can set."""

    model_list: Annotated[tuple[ModelEntry, ...], Field(min_length=1)]
    """The models that callers can name, and where each goes."""
    router_settings: RouterSettings = RouterSettings()
    litellm_settings: LitellmSettings = LitellmSettings()
    lessons: LessonSettings = LessonSettings()
    identity: IdentityPolicy = IdentityPolicy()
    """How the proxy learns which learner a call is for."""
    access: Access = Access()
    limits: dict[str, Any] = Field(default_factory=dict)
    """Not built in this release."""
    redis: Redis = Redis()
    passthrough: tuple[Passthrough, ...] = ()
    bounds: Bounds = Bounds()
    drain_grace_seconds: Annotated[float, Field(ge=0, le=3600)] = 5
    """After SIGTERM: seconds for which new calls are still served, unmerged."""
    drain_seconds: Annotated[float, Field(gt=0, le=86_400)] = 60
    """After SIGTERM: seconds within which everybody is answered."""
    log: Log = Log()

    def lesson_policy(self) -> LessonPolicy:
        """Return all that recognising and merging need, the rules in the order in which they are tried."""
        lessons = self.lessons
        return LessonPolicy(
            mode=lessons.mode,
            window=lessons.window,
            merge=lessons.merge,
            checks=lessons.checks,
            rules=lessons.rules(),
            subject=lessons.subject,
            topic=lessons.topic,
            identity=self.identity,
        )

    @property
    def num_retries(self) -> int:
        """How often a lone lesson that failed upstream is sent again."""
        for value in (self.router_settings.num_retries, self.litellm_settings.num_retries):
            if value is not None:
                return value
        return _DEFAULT_RETRIES

    @property
    def timeout_s(self) -> float | None:
        """Seconds for a call upstream; None: nothing is set."""
        return self.router_settings.timeout or self.litellm_settings.request_timeout

    def operator_key_aliases(self) -> tuple[str, ...]:
        """Return the aliases whose calls spend a key of the operator's own."""
        spending = (entry.model_name for entry in self.model_list if entry.litellm_params.key_source in {"set", "environment"})
        return tuple(dict.fromkeys(spending))
