"""The metrics of several workers as one text: every sample says whose it is, every family stands once."""

from __future__ import annotations

from collections.abc import Mapping

_LABEL = b'worker="%s"'


def joint(texts: Mapping[str, bytes]) -> bytes:
    """Return the texts of `GET /metrics` of several workers, by their names, as one."""
    heads: dict[bytes, list[bytes]] = {}
    samples: dict[bytes, list[bytes]] = {}
    for worker, text in texts.items():
        label = _LABEL % worker.encode()
        family = b""
        for line in text.splitlines():
            if line.startswith(b"# "):
                family = line.split(b" ", 3)[2]
                known = heads.setdefault(family, [])
                if line not in known:
                    known.append(line)
            elif line:
                samples.setdefault(family, []).append(_labelled(line, label))
    lines = [line for family, head in heads.items() for line in (*head, *samples.get(family, ()))]
    return b"\n".join(lines) + b"\n"


def _labelled(line: bytes, label: bytes) -> bytes:
    name, brace, rest = line.partition(b"{")
    if brace and b" " not in name:
        return b"%s{%s,%s" % (name, label, rest)
    name, _, value = line.partition(b" ")
    return b"%s{%s} %s" % (name, label, value)
