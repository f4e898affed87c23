"""Paths before they are matched: one form for each, so that no spelling of a path reaches another; it knows no endpoint."""

from __future__ import annotations

import re

# what stands in a path of the API or in a model's name; `%` is not among them: what is still encoded after the server has
# decoded once was encoded twice, and would be read as another path upstream. `;` neither: some servers cut parameters there
_SAFE = re.compile(r"/[A-Za-z0-9\-._~!$&'()*+,=:@/]*")
_LONGEST = 2048


def normalise(path: str) -> str | None:
    """Return the path without doubled or trailing slashes and with its dot segments resolved; None: nothing can be meant by it.

    `path` is what the server hands on: percent-decoded, once.
    """
    if len(path) > _LONGEST or not _SAFE.fullmatch(path):
        return None
    kept: list[str] = []
    for part in path.split("/"):
        if part == "..":
            del kept[-1:]
        elif part and part != ".":
            kept.append(part)
    return "/" + "/".join(kept)
