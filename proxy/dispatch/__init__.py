"""One sealed batch: where it goes, how it is asked, and every lesson settled the moment that its entry closes."""

from proxy.dispatch.dispatcher import Dispatcher

__all__ = ["Dispatcher"]
