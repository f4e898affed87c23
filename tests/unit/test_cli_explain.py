"""`explain`: which requests would be merged, why not, and what they would become."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from proxy.cli import app
from tests.make import make_body, make_user_text

NO_CARRIER = "{force: none, json_schema: false, json_object: false}"
COLUMNS = {"file", "decision", "rule", "reason", "subject", "topic", "user", "scope", "key"}


def command(*arguments: str | Path, standard_input: str | None = None) -> Result:
    return CliRunner().invoke(app, ["explain", *(str(argument) for argument in arguments)], input=standard_input)


def rows(*arguments: str | Path, standard_input: str | None = None) -> list[dict[str, Any]]:
    done = command("--json", *arguments, standard_input=standard_input)
    assert done.exit_code == 0, done.output
    return [json.loads(line) for line in done.output.splitlines()]


def file(folder: Path, name: str, content: object) -> Path:
    path = folder / f"{name}.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


def lesson(request: str = "Write the lesson.", **overrides: Any) -> dict[str, Any]:
    messages = [
        {"role": "system", "content": "You teach."},
        {"role": "user", "content": make_user_text(request=f"Create one lesson. {request}")},
    ]
    return make_body(model="lesson-model", messages=messages) | overrides


def test_a_lesson_call_would_be_merged(tmp_path: Path) -> None:
    (row,) = rows(file(tmp_path, "a", lesson(user="learner-17")))
    assert set(row) == COLUMNS
    assert row | {"key": "", "rule": ""} == {
        "file": str(tmp_path / "a.json"),
        "decision": "merge",
        "rule": "",
        "reason": None,
        "subject": "Algebra 1",
        "topic": "Linear equations",
        "user": "learner-17",
        "scope": "user",
        "key": "",
    }
    assert row["rule"]
    assert row["key"]


def test_without_a_user_only_identical_calls_would_be(tmp_path: Path) -> None:
    one, twin, other = rows(*(file(tmp_path, name, lesson(text)) for name, text in (("a", "One."), ("b", "One."), ("c", "Two."))))
    assert (one["scope"], one["user"]) == ("identical", None)
    assert one["key"] == twin["key"] != other["key"]


def test_what_goes_alone_says_why(tmp_path: Path) -> None:
    (row,) = rows(file(tmp_path, "a", lesson(n=2)))
    assert (row["decision"], row["reason"], row["key"]) == ("single", "n", None)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ({"model": "m", "input": "Write a lesson."}, "no_subject"),
        ({"path": "/v1/responses", "headers": {}, "body": {"model": "m", "input": "x", "background": True}}, "background"),
        ({"path": "/responses?x=1", "body": {"model": "m"}}, "query"),
        ({"path": "/v1/embeddings", "body": {"model": "m"}}, "not_chat"),
        ({"path": "/v1/lessons/../completions", "body": {"model": "m"}}, "not_chat"),
        ({"path": "http://elsewhere", "body": {"model": "m"}}, "not_chat"),
    ],
)
def test_what_is_no_lesson_call_is_named(content: object, reason: str, tmp_path: Path) -> None:
    (row,) = rows(file(tmp_path, "a", content))
    assert (row["decision"], row["reason"]) == ("single", reason)


def test_a_body_with_input_is_one_of_the_responses_api(tmp_path: Path) -> None:
    """It shares its key with the chat call of equal meaning."""
    said = lesson(user="u")
    same = {name: said[name] for name in said if name not in {"messages", "tools", "tool_choice"}} | {"input": said["messages"]}
    same["tools"] = [{"type": "function", **tool["function"]} for tool in said["tools"]]
    same["tool_choice"] = {"type": "function", "name": said["tool_choice"]["function"]["name"]}
    chat, responses = rows(file(tmp_path, "a", said), file(tmp_path, "b", same))
    assert responses["decision"] == "merge"
    assert chat == responses | {"file": chat["file"]}


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/chat/completions", "//v1/chat//completions/", None])
def test_a_recorded_request_is_read_with_its_headers(path: str | None, tmp_path: Path) -> None:
    content = {"name": "x", "client": "y", "path": path, "headers": {"X-User-Id": "learner-9", "X-Lesson-Expect": 3}, "body": lesson()}
    (row,) = rows(file(tmp_path, "a", content))
    assert (row["decision"], row["user"]) == ("merge", "learner-9")


def test_calls_of_different_api_keys_have_different_keys(tmp_path: Path) -> None:
    files = [
        file(tmp_path, name, {"headers": {"Authorization": f"Bearer {key}"}, "body": lesson(user="u")})
        for name, key in (("a", "sk-one"), ("b", "sk-two"), ("c", "sk-one"))
    ]
    one, other, again = rows(*files)
    assert one["key"] == again["key"] != other["key"]
    assert "sk-" not in command(*files).output


def test_standard_input_is_a_file_too() -> None:
    (row,) = rows("-", standard_input=json.dumps(lesson(user="u")))
    assert (row["file"], row["decision"]) == ("-", "merge")


def test_what_the_proxy_would_read_is_read(tmp_path: Path) -> None:
    """A byte order mark, as editors leave it."""
    marked = tmp_path / "marked.json"
    marked.write_text(json.dumps(lesson(user="u")), encoding="utf-8-sig")
    (row,) = rows(marked)
    assert row["decision"] == "merge"


def test_a_table_is_shown_without_json(tmp_path: Path) -> None:
    done = command(file(tmp_path, "a", lesson(user="u")), file(tmp_path, "b", lesson(n=2)))
    assert done.exit_code == 0
    for shown in ("decision", "merge", "single", "Algebra 1", "a.json", "b.json"):
        assert shown in done.output


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", "not JSON (line 1"),
        ("[]", "must be a JSON object"),
        ({"body": []}, "`body` must be a JSON object"),
        ({"body": {}, "headers": ["x"]}, "`headers` must be a JSON object of strings"),
        ({"body": {}, "path": 5}, "`path` must be a string"),
    ],
)
def test_a_file_without_a_request_is_named(content: object, words: str, tmp_path: Path) -> None:
    done = command("--json", file(tmp_path, "a", content))
    assert done.exit_code == 1
    assert f"a.json: {words}" in done.output


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    done = command(tmp_path / "none.json")
    assert done.exit_code == 1
    assert "none.json: No such file or directory" in done.output


def test_standard_input_can_be_read_once() -> None:
    assert command("-", "-", standard_input="{}").exit_code == 1


def test_the_operators_rules_decide(tmp_path: Path) -> None:
    config = tmp_path / "proxy.yaml"
    config.write_text(
        "model_list: [{model_name: a, litellm_params: {model: simulated/a}}]\n"
        "lessons: {recognise: [{name: tried, when: {tool: create_lesson}, mode: dry_run}]}\n"
    )
    (row,) = rows("--config", config, file(tmp_path, "a", lesson(user="u")))
    assert (row["decision"], row["rule"], row["reason"]) == ("single", "tried", "dry_run")
    config.write_text(config.read_text().replace("mode: dry_run", "share: 0"))
    (row,) = rows("--config", config, file(tmp_path, "a", lesson(user="u")))
    assert (row["decision"], row["reason"]) == ("single", "share")


def test_a_mistaken_configuration_is_told(tmp_path: Path) -> None:
    config = tmp_path / "proxy.yaml"
    config.write_text("colour: red")
    done = command("--config", config, file(tmp_path, "a", lesson()))
    assert done.exit_code == 1
    assert "colour: unknown key" in done.output


def merged(*files: Path, config: str | None = None) -> Result:
    options: list[str | Path] = ["--merged"]
    if config is not None:
        path = files[0].parent / "proxy.yaml"
        path.write_text(config)
        options += ["--config", path]
    return CliRunner().invoke(app, ["explain", *(str(part) for part in (*options, *files))])


def test_files_that_belong_together_become_one_body(tmp_path: Path) -> None:
    done = merged(file(tmp_path, "a", lesson("With trains.", user="u")), file(tmp_path, "b", lesson("With ships.", user="u", stream=True)))
    assert done.exit_code == 0, done.output
    body = json.loads(done.stdout)
    assert body["model"] == "lesson-model"
    assert (body["stream"], body["stream_options"]) == (True, {"include_usage": True})
    assert body["tools"][0]["function"]["name"] == "create_lesson_batch"
    text = json.dumps(body)
    assert text.count("With trains.") == text.count("With ships.") == text.count("You teach.") == 1
    assert merged(tmp_path / "a.json", tmp_path / "b.json").stdout == done.stdout


def test_files_that_dont_belong_together_are_told_apart(tmp_path: Path) -> None:
    """The groups among them are shown all the same."""
    calls = {"a": lesson(user="u"), "b": lesson(user="u"), "c": lesson(user="other"), "d": lesson(user="u", n=2)}
    done = merged(*(file(tmp_path, name, body) for name, body in calls.items()))
    assert done.exit_code == 1
    assert json.loads(done.stdout)["tools"]
    assert "these files do not become one call" in done.stderr
    assert "d.json: goes alone: n" in done.stderr


def test_a_single_file_becomes_no_batch(tmp_path: Path) -> None:
    done = merged(file(tmp_path, "a", lesson(user="u")))
    assert (done.exit_code, done.stdout) == (1, "")


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ("model_list: [{model_name: other, litellm_params: {model: simulated/a}}]", "no entry of model_list answers to 'lesson-model'"),
        ("model_list: [{model_name: lesson-model, litellm_params: {model: nobody-knows-this}}]", "litellm knows no provider of this name"),
        (
            "model_list: [{model_name: lesson-model, litellm_params: {model: simulated/a}}]\nlessons: {window: {max_size: 1}}",
            "a window holds 1 lessons",
        ),
        (
            f"model_list: [{{model_name: lesson-model, litellm_params: {{model: simulated/a}}, model_info: {{lessons: {NO_CARRIER}}}}}]",
            "not merged: no_carrier",
        ),
    ],
)
def test_what_cant_be_merged_says_why(config: str, words: str, tmp_path: Path) -> None:
    done = merged(file(tmp_path, "a", lesson(user="u")), file(tmp_path, "b", lesson(user="u")), config=config)
    assert done.exit_code == 1
    assert words in done.output
    assert done.stdout == ""


def test_the_first_of_several_deployments_is_taken_and_named(tmp_path: Path) -> None:
    config = (
        "model_list: [{model_name: lesson-model, litellm_params: {model: simulated/first}, model_info: {lessons: {stream: false}}},"
        " {model_name: lesson-model, litellm_params: {model: simulated/second}}]"
    )
    done = merged(file(tmp_path, "a", lesson(user="u")), file(tmp_path, "b", lesson(user="u")), config=config)
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["model"] == "first"
    assert "stream" not in json.loads(done.stdout)
    assert "the first of 2 deployments" in done.stderr
