"""Windows that several replicas share through a Redis: a thin shell around the machine in `windows/replica`."""

from proxy.windows.redis.window import RedisWindow, Sharing

__all__ = ["RedisWindow", "Sharing"]
