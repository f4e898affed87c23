"""The replica's side of shared windows, pure: a state machine that is told what happened and says what is to be done."""

from proxy.windows.replica.effects import Dispatch, Effect, GoAlone, Hand, Note, Recount, Send, Times
from proxy.windows.replica.machine import Replica

__all__ = ["Dispatch", "Effect", "GoAlone", "Hand", "Note", "Recount", "Replica", "Send", "Times"]
