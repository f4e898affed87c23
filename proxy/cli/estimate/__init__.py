"""`estimate`: past calls replayed through the recogniser and the window under their own clock; nothing is sent anywhere."""

from proxy.cli.estimate.show import run

__all__ = ["run"]
