"""The configuration: read from YAML, frozen, every mistake told with its place; the only reader of the environment."""

from proxy.settings.aliases import entries_for
from proxy.settings.dangers import dangers, is_loopback
from proxy.settings.document import ConfigError, Mistake
from proxy.settings.edges import Access, ApiKey, Bounds, Log, Passthrough
from proxy.settings.file import Settings
from proxy.settings.lessons import LessonSettings
from proxy.settings.load import default_file, load, parse
from proxy.settings.providers import CALLER_KEY, KeySource, LitellmParams, LitellmSettings, ModelEntry, ModelInfo, RouterSettings

__all__ = [
    "CALLER_KEY",
    "Access",
    "ApiKey",
    "Bounds",
    "ConfigError",
    "KeySource",
    "LessonSettings",
    "LitellmParams",
    "LitellmSettings",
    "Log",
    "Mistake",
    "ModelEntry",
    "ModelInfo",
    "Passthrough",
    "RouterSettings",
    "Settings",
    "dangers",
    "default_file",
    "entries_for",
    "is_loopback",
    "load",
    "parse",
]
