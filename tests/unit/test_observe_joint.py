"""The metrics of several workers as one text that Prometheus reads."""

from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families

from proxy.observe.events import StateChanged, WindowShared
from proxy.observe.joint import joint
from proxy.observe.metrics import Metrics


def told(text: bytes) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text.decode())
        for sample in family.samples
    }


def test_every_sample_says_whose_it_is_and_nothing_is_lost() -> None:
    one, two = Metrics(["gpt"]), Metrics(["gpt"])
    one(StateChanged("ready"))
    one(WindowShared("taken_back", "leader_lost"))
    two(WindowShared("led", size=3, others=2))
    texts = {"1": one.render()[0], "2": two.render()[0]}
    both = joint(texts)
    expected = {
        (name, tuple(sorted((*labels, ("worker", worker))))): value
        for worker, text in texts.items()
        for (name, labels), value in told(text).items()
    }
    # what tells of the process goes on between the two readings
    assert told(both).keys() == expected.keys()
    assert all(told(both)[key] == value for key, value in expected.items() if key[0].startswith("lesson_proxy_"))


def test_every_family_stands_once_with_its_help_and_type() -> None:
    text = joint({"1": Metrics().render()[0], "2": Metrics().render()[0]}).decode()
    heads = [line for line in text.splitlines() if line.startswith("# ")]
    assert len(heads) == len(set(heads))
    assert "# TYPE lesson_proxy_calls_total counter" in heads


def test_label_values_with_braces_and_spaces_stay_as_they_are() -> None:
    text = joint({"1": b'# HELP a b\n# TYPE a counter\na{x="} {"} 1\nb 2.5\n'})
    assert text == b'# HELP a b\n# TYPE a counter\na{worker="1",x="} {"} 1\nb{worker="1"} 2.5\n'
