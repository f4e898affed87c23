"""Sites whose answers are gone on from: each by itself, an app as a whole once several of its sites do, none for ever in memory."""

from __future__ import annotations

from proxy.sites import Sites
from proxy.sites.continued import Continued

APP = "a" * 16


def site(name: str, app: str = APP) -> str:
    return app + name * 16


def test_a_site_that_goes_on_says_nothing_of_others() -> None:
    known = Continued()
    known.add(site("1"))
    assert site("1") in known
    assert site("2") not in known
    assert site("1", app="b" * 16) not in known


def test_an_app_whose_system_text_is_always_new_goes_on_as_a_whole() -> None:
    known = Continued()
    for name in "121":
        known.add(site(name))
    assert site("3") not in known
    known.add(site("3"))
    assert site("4") in known
    assert site("4", app="b" * 16) not in known


def test_the_apps_that_went_on_longest_ago_are_forgotten() -> None:
    known = Continued()
    for number in range(4096):
        known.add(site("1", app=f"{number:016x}"))
    known.add(site("1", app=f"{0:016x}"))
    known.add(site("1"))
    assert site("1", app=f"{0:016x}") in known
    assert site("1", app=f"{1:016x}") not in known
    assert site("1") in known


def test_the_room_remembers() -> None:
    sites = Sites()
    sites.builds_on(site("1"))
    assert sites.is_built_on(site("1"))
    assert not sites.is_built_on(site("2"))
    assert not Sites().is_built_on("")
