"""Which call sites go on from earlier answers by naming them: nothing of a merged answer is stored, so theirs must not be merged."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field

from proxy.model import SITE_APP

_MOST = 4096
_SITES_OF_AN_APP = 3
"""An app of which so many sites go on writes its system texts anew for each call: then it is the app that goes on."""


@dataclass(slots=True)
class Continued:
    """At most `_MOST` apps, those that went on last; of each a few sites, and then the app as a whole."""

    _sites: OrderedDict[str, set[str]] = field(default_factory=OrderedDict[str, set[str]])
    """By app."""

    def add(self, site: str) -> None:
        """Take one in."""
        app = site[:SITE_APP]
        known = self._sites.setdefault(app, set())
        if len(known) < _SITES_OF_AN_APP:
            known.add(site)
        self._sites.move_to_end(app)
        if len(self._sites) > _MOST:
            self._sites.popitem(last=False)

    def __contains__(self, site: str) -> bool:
        known = self._sites.get(site[:SITE_APP], ())
        return site in known or len(known) >= _SITES_OF_AN_APP
