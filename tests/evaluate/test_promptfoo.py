"""Import of promptfoo configurations: what becomes an item, what is left out and why."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from tasks.evaluate.suites.promptfoo import Imported, import_config, write_suite
from tasks.evaluate.suites.suite import Question, questions_of
from weighbridge.errors import ImportIncomplete, ImportRefused, SuiteExists

CONTAINS = [{"type": "contains", "value": "x"}]


def config(folder: Path, **parts: Any) -> Path:
    path = folder / "promptfooconfig.yaml"
    path.write_text(yaml.safe_dump({"prompts": ["{{q}}"], **parts}))
    return path


def imported(folder: Path, **parts: Any) -> Imported:
    return import_config(config(folder, **parts))


def last_messages(found: Imported) -> list[str]:
    return [question.messages[-1].content for question in found.questions]


def only_question(found: Imported) -> Question:
    assert [str(lost) for lost in found.lost] == []
    assert len(found.questions) == 1
    return found.questions[0]


def left_out(found: Imported) -> str:
    return "\n".join(map(str, found.lost))


def test_every_prompt_is_combined_with_every_test(tmp_path: Path) -> None:
    tests = [{"vars": {"q": "one"}, "assert": CONTAINS}, {"vars": {"q": "two"}, "assert": CONTAINS}]
    found = imported(tmp_path, prompts=["Say {{q}}", "Sing {{q}}"], tests=tests)
    assert last_messages(found) == ["Say one", "Sing one", "Say two", "Sing two"]
    assert found.tests == 2
    first, second, third, _ = found.questions
    assert first.cluster == second.cluster != third.cluster
    assert imported(tmp_path, tests=tests).questions[0].cluster is None


def test_lists_of_texts_expand_and_other_lists_do_not(tmp_path: Path) -> None:
    variables = {"q": ["a", "b"], "w": ["c", "d"], "n": [1, 2]}
    test = {"vars": variables, "assert": [{"type": "contains", "value": "{{w}}"}]}
    found = imported(tmp_path, prompts=["{{q}} {{w}} {% for i in n %}{{i}};{% endfor %}"], tests=[test])
    assert last_messages(found) == ["a c 1;2;", "a d 1;2;", "b c 1;2;", "b d 1;2;"]
    assert [question.assertions[0].value for question in found.questions] == ["c", "d", "c", "d"]
    whole = imported(tmp_path, tests=[{**test, "options": {"disableVarExpansion": True}}])
    assert last_messages(whole) == ["a,b"]


def test_default_tests_apply_first_and_can_be_overridden(tmp_path: Path) -> None:
    default = {
        "vars": {"q": "default", "shop": "S"},
        "assert": [{"type": "not-contains", "value": "<|"}],
        "threshold": 0.5,
        "metadata": {"area": "all"},
    }
    tests = [
        {"assert": CONTAINS},
        {
            "vars": {"q": "mine {{shop}}"},
            "assert": CONTAINS,
            "options": {"disableDefaultAsserts": True},
            "threshold": 1,
        },
    ]
    first, second = imported(tmp_path, defaultTest=default, tests=tests).questions
    assert [assertion.type for assertion in first.assertions] == ["not-contains", "contains"]
    assert (first.threshold, first.tags, first.messages[0].content) == (0.5, ("area=all",), "default")
    assert [assertion.type for assertion in second.assertions] == ["contains"]
    assert (second.threshold, second.messages[0].content) == (1.0, "mine S")


def test_chats_keep_their_roles_and_survive_quotes_in_variables(tmp_path: Path) -> None:
    (tmp_path / "chat.json").write_text('[{"role":"system","content":"Be {{how}}."},{"role":"user","content":"{{q}}"}]')
    (tmp_path / "chat.yaml").write_text("- role: user\n  content: '{{how}}'\n- role: assistant\n  content: ok\n")
    tests = [{"vars": {"q": 'Say "hi"\nnow', "how": "kind"}, "assert": CONTAINS}]
    found = imported(tmp_path, prompts=["file://chat.json", "file://chat.yaml"], tests=tests)
    chats = [[(message.role, message.content) for message in question.messages] for question in found.questions]
    assert chats[0] == [("system", "Be kind."), ("user", 'Say "hi"\nnow')]
    assert chats[1] == [("user", "kind"), ("assistant", "ok")]


def test_prompts_in_files_are_split_and_chosen_by_label(tmp_path: Path) -> None:
    (tmp_path / "p").mkdir()
    (tmp_path / "p/two.txt").write_text("A {{q}}\n---\nB {{q}}\n")
    prompts = [{"id": "file://p/*.txt", "label": "letters"}, {"raw": "C {{q}}", "label": "third"}]
    tests = [{"vars": {"q": "1"}, "assert": CONTAINS}, {"vars": {"q": "2"}, "assert": CONTAINS, "prompts": ["third"]}]
    assert last_messages(imported(tmp_path, prompts=prompts, tests=tests)) == ["A 1", "B 1", "C 1", "C 2"]


def test_tests_come_from_yaml_json_jsonl_and_csv(tmp_path: Path) -> None:
    test = {"vars": {"q": "{}"}, "assert": CONTAINS}
    (tmp_path / "a.yaml").write_text(yaml.safe_dump([{**test, "vars": {"q": "yaml"}}]))
    (tmp_path / "b.json").write_text(json.dumps([{**test, "vars": {"q": "json"}}]))
    (tmp_path / "c.jsonl").write_text(json.dumps({**test, "vars": {"q": "jsonl"}}) + "\n")
    (tmp_path / "d.csv").write_text("q,__expected\ncsv,contains: x\n")
    found = imported(tmp_path, tests=["file://a.yaml", "b.json", "file://*.jsonl", {"path": "file://d.csv"}])
    assert last_messages(found) == ["yaml", "json", "jsonl", "csv"]
    assert {question.assertions for question in found.questions} == {found.questions[0].assertions}


def test_csv_columns_and_the_short_form_of_assertions(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(
        "q,__expected1,__expected2,__threshold,__metadata:area,__metadata:tags[],__description,__metric,"
        "__config:__expected2:weight\n"
        '"What, now?",Paris,"not-icontains-any: ""a, b"", c",0.5,geo,"x,y\\, z",Capital,accuracy,2\n'
        "Next,levenshtein(3): Rome,is-json,,,,,,\n"
    )
    first, second = imported(tmp_path, tests="file://t.csv").questions
    assert [(a.type, a.value, a.weight) for a in first.assertions] == [
        ("equals", "Paris", 1),
        ("not-icontains-any", '"a, b", c', 2),
    ]
    assert first.assertions[1].failure("b") == ""
    assert first.assertions[1].failure("A, B") != ""
    assert (first.threshold, first.description) == (0.5, "Capital")
    assert first.tags == ("area=geo", "x", "y, z", "metric=accuracy")
    assert first.id.startswith("capital-")
    assert [(a.type, a.value, a.threshold) for a in second.assertions] == [
        ("levenshtein", "Rome", 3),
        ("is-json", None, None),
    ]


def test_scenarios_cross_their_data_with_their_tests(tmp_path: Path) -> None:
    scenario = {
        "config": [{"vars": {"to": "Spanish", "hi": "Hola"}}, {"vars": {"to": "German", "hi": "Hallo"}}],
        "tests": [{"vars": {"q": "hi in {{to}}"}, "assert": [{"type": "contains", "value": "{{hi}}"}]}],
    }
    found = imported(tmp_path, scenarios=[scenario])
    assert last_messages(found) == ["hi in Spanish", "hi in German"]
    assert [question.assertions[0].value for question in found.questions] == ["Hola", "Hallo"]


def test_assertions_take_templates_files_and_references(tmp_path: Path) -> None:
    (tmp_path / "schema.json").write_text('{"type": "object"}')
    (tmp_path / "wanted.txt").write_text("forty two\n")
    either = [*CONTAINS, {"type": "icontains", "value": "{{q}}"}]
    found = imported(
        tmp_path,
        assertionTemplates={"clean": {"type": "not-contains", "value": "<|"}},
        tests=[
            {
                "vars": {"q": "x", "n": 42},
                "assert": [
                    {"$ref": "#/assertionTemplates/clean"},
                    {"type": "is-json", "value": "file://schema.json"},
                    {"type": "contains-json", "value": "{type: object}"},
                    {"type": "contains-any", "value": ["{{n}}", "file://wanted.txt"]},
                    {"type": "regex", "value": r"(?<a>\d)\k<a>"},
                    {"type": "equals", "value": 4},
                    {"type": "assert-set", "threshold": 0.5, "assert": either},
                ],
            }
        ],
    )
    values = [assertion.value for assertion in only_question(found).assertions]
    assert values[:6] == ["<|", {"type": "object"}, {"type": "object"}, ["42", "forty two"], r"(?P<a>\d)(?P=a)", "4"]
    assert [member.value for member in found.questions[0].assertions[6].assertions] == ["x", "x"]


def test_tools_and_max_tokens_come_from_the_provider(tmp_path: Path) -> None:
    tool = {"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}
    providers = [{"id": "openai:x", "config": {"tools": [tool], "max_tokens": 77, "temperature": 1}}]
    tests = [{"vars": {"q": "x"}, "assert": [{"type": "is-valid-openai-tools-call"}]}]
    question = only_question(imported(tmp_path, providers=providers, tests=tests))
    assert (question.tools, question.max_tokens) == ((tool,), 77)
    assert question.request["tools"] == [tool]
    without = imported(tmp_path, providers=["openai:x"], tests=tests)
    assert "needs the item's `tools`" in left_out(without)
    assert without.questions == ()


@pytest.mark.parametrize(
    ("test", "reason"),
    [
        ({"assert": [*CONTAINS, {"type": "javascript", "value": "true"}]}, "test 1: assertion 2 (javascript)"),
        ({"assert": [{"type": "llm-rubric", "value": "kind"}]}, "none of its assertions"),
        ({"assert": [{"type": "similar", "value": "kind"}]}, "local:chrf"),
        ({"assert": [*CONTAINS, {"type": "python", "value": "x"}], "threshold": 0.5}, "its threshold counts on"),
        ({"assert": [{"type": "contains", "value": "x", "transform": "output"}]}, "`transform`"),
        ({"assert": [{"$ref": "#/assertionTemplates/gone"}]}, "no assertion with a `type`"),
        ({"assert": [{"type": "regex", "value": r"\p{L}"}]}, "does not compile in Python"),
        ({"assert": [{"type": "assert-set", "assert": [*CONTAINS, {"type": "cost", "threshold": 1}]}]}, "'cost'"),
        ({"assert": []}, "no assertion: any answer"),
        ({"assert": CONTAINS, "options": {"transform": "output.trim()"}}, "`options.transform`"),
        ({"assert": CONTAINS, "options": {"storeOutputAs": "a"}}, "`options.storeOutputAs`"),
        ({"assert": CONTAINS, "options": {"response_format": {}}}, "`options.response_format`"),
        ({"assert": CONTAINS, "providerOutput": "x"}, "`providerOutput`"),
        ({"assert": CONTAINS, "assertScoringFunction": "file://s.js"}, "`assertScoringFunction`"),
        ({"assert": CONTAINS, "colour": "red"}, "`colour`"),
        ({"assert": CONTAINS, "prompts": ["gone"]}, "no prompt is called gone"),
        ({"assert": CONTAINS, "vars": {"p": "no q"}}, "'q' is undefined"),
        ({"assert": CONTAINS, "vars": {"q": "{{env.KEY}}"}}, "environment"),
        ({"assert": CONTAINS, "vars": {"q": "{{ p.toUpperCase() }}", "p": "x"}}, "cannot be filled"),
        ({"assert": CONTAINS, "vars": {"q": "{{ p | nope }}", "p": "x"}}, "Jinja2 does not read"),
        ({"assert": CONTAINS, "vars": {"q": {"a": 1}}}, "`{{ name | dump }}`"),
        ({"assert": CONTAINS, "vars": {"q": "file://pic.png"}}, "pic.png is no text"),
        ({"assert": CONTAINS, "vars": {"q": "file://code.py"}}, "programs are not run"),
    ],
)
def test_parts_that_cannot_be_imported_are_listed_with_their_test(
    tmp_path: Path, test: dict[str, Any], reason: str
) -> None:
    (tmp_path / "pic.png").write_bytes(b"\x89PNG")
    (tmp_path / "code.py").write_text("raise SystemExit")
    found = imported(tmp_path, tests=[{"vars": {"q": "x"}, **test}])
    assert reason in left_out(found)
    assert "test 1: " in left_out(found)


@pytest.mark.parametrize(
    ("part", "reason"),
    [
        ({"prompts": ["file://make.py"]}, "prompt 1: 'file://make.py' is a program"),
        ({"prompts": ["langfuse://mine:3"]}, "not fetched"),
        ({"prompts": ["exec:./make.sh"]}, "prompt 1"),
        ({"tests": "file://make.js"}, "is a program"),
        ({"tests": "huggingface://datasets/x"}, "is not a file"),
        ({"tests": "file://sheet.xlsx#2"}, "spreadsheet"),
        ({"extensions": ["file://hook.py:after"]}, "`extensions`"),
        ({"nunjucksFilters": {"up": "./up.js"}}, "`nunjucksFilters`"),
    ],
)
def test_parts_of_the_configuration_that_are_left_out(tmp_path: Path, part: dict[str, Any], reason: str) -> None:
    found = imported(tmp_path, **{"tests": [{"vars": {"q": "x"}, "assert": CONTAINS}], **part})
    assert reason in left_out(found)
    assert found.lost[0].test is None


def test_an_unsupported_default_assertion_is_listed_once_and_leaves_no_empty_test(tmp_path: Path) -> None:
    default = {"assert": [{"type": "llm-rubric", "value": "polite"}, {"type": "not-contains", "value": "<|"}]}
    tests = [
        {"vars": {"q": "a"}, "assert": CONTAINS},
        {"vars": {"q": "b"}, "assert": CONTAINS},
        {"vars": {"q": "c"}, "assert": [{"type": "factuality", "value": "c"}]},
    ]
    found = imported(tmp_path, defaultTest=default, tests=tests)
    assert last_messages(found) == ["a", "b"]
    assert left_out(found).count("llm-rubric") == 2  # its name as where and in the reason, of one entry
    assert "test 3: the whole test: none of its own assertions" in left_out(found)


@pytest.mark.parametrize(
    "reference", ["file://../secret.txt", "file:///etc/hostname", "file://link.txt", "file://../*.txt"]
)
@pytest.mark.parametrize("place", ["prompt", "test", "var", "assertion"])
def test_nothing_outside_the_folder_is_read(tmp_path: Path, reference: str, place: str) -> None:
    (tmp_path / "secret.txt").write_text("secret")
    folder = tmp_path / "inside"
    folder.mkdir()
    (folder / "link.txt").symlink_to(tmp_path / "secret.txt")
    parts: dict[str, Any] = {"tests": [{"vars": {"q": "x"}, "assert": CONTAINS}]}
    if place == "prompt":
        parts["prompts"] = [reference]
    elif place == "test":
        parts["tests"] = reference
    elif place == "var":
        parts["tests"] = [{"vars": {"q": reference}, "assert": CONTAINS}]
    else:
        parts["tests"] = [{"vars": {"q": "x"}, "assert": [{"type": "contains", "value": reference}]}]
    with pytest.raises(ImportRefused, match="outside its own folder"):
        imported(folder, **parts)


@pytest.mark.parametrize("template", ["{{ q.__class__.__mro__ }}", "{{ ''.__class__ }}", "{{ self.__init__ }}"])
def test_templates_cannot_reach_python(tmp_path: Path, template: str) -> None:
    found = imported(tmp_path, prompts=[template], tests=[{"vars": {"q": "x"}, "assert": CONTAINS}])
    assert found.questions == ()
    assert "template" in left_out(found)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("prompts: [a\ntests: b", "not YAML"),
        ("- just\n- a list\n", "not a mapping"),
        ("tests: file://gone.yaml\n", "no such file"),
        ("tests: [file://bad.json]\n", "not JSON"),
        ("tests: [file://bad.csv]\n", "number of cells"),
        ("tests: [7]\n", "not a mapping of names"),
        ("prompts: [x]\ndefaultTest: {vars: 3}\ntests: [{assert: []}]\n", "vars"),
    ],
)
def test_an_unreadable_configuration_is_refused_with_its_place(tmp_path: Path, text: str, reason: str) -> None:
    (tmp_path / "bad.json").write_text("[{]")
    (tmp_path / "bad.csv").write_text("a,b\n1\n")
    path = tmp_path / "promptfooconfig.yaml"
    path.write_text(text)
    with pytest.raises(ImportRefused, match=reason) as caught:
        import_config(path)
    assert caught.value.next_step
    assert caught.value.where


def test_yaml_is_read_as_promptfoo_reads_it(tmp_path: Path) -> None:
    path = tmp_path / "promptfooconfig.yaml"
    path.write_text(
        "prompts: ['{{q}} {{w}} {{on}} {{f}}']\n"
        "tests:\n"
        "- vars: {q: no?, w: 2024-01-01, on: true, f: 1.0}\n"
        "  assert: [{type: contains, value: yes}]\n"
    )
    question = only_question(import_config(path))
    assert question.messages[0].content == "no? 2024-01-01 true 1"
    assert question.assertions[0].value == "yes"


def test_ids_depend_only_on_the_content(tmp_path: Path) -> None:
    tests = [{"vars": {"q": word}, "assert": CONTAINS} for word in ("one", "two", "three")]
    before = {q.messages[0].content: q.id for q in imported(tmp_path, tests=tests).questions}
    moved = [{"vars": {"q": "new"}, "assert": CONTAINS}, *reversed(tests)]
    moved[1] = {**moved[1], "metadata": {"tags": ["late"]}}
    after = {q.messages[0].content: q.id for q in imported(tmp_path, tests=moved).questions}
    assert {word: after[word] for word in before} == before
    changed = [{"vars": {"q": "one"}, "assert": [{"type": "contains", "value": "y"}]}]
    assert imported(tmp_path, tests=changed).questions[0].id != before["one"]


def test_equal_tests_are_imported_once_with_a_note(tmp_path: Path) -> None:
    found = imported(tmp_path, tests=[{"vars": {"q": "x"}, "assert": CONTAINS}] * 2)
    assert len(found.questions) == 1
    assert any("Test 2" in text for text in found.notes)


def test_must_pass_items_are_never_graded(tmp_path: Path) -> None:
    tests = [
        {"vars": {"q": "a"}, "assert": CONTAINS, "metadata": {"must_pass": True, "tags": ["core"]}},
        {"vars": {"q": "b"}, "assert": CONTAINS},
    ]
    first, second = import_config(config(tmp_path, tests=tests), graded=True).questions
    assert (first.must_pass, first.graded, first.tags) == (True, False, ("core",))
    assert (second.must_pass, second.graded) == (False, True)


def test_a_suite_is_written_atomically_and_replaced_only_by_force(tmp_path: Path) -> None:
    found = imported(tmp_path, tests=[{"vars": {"q": "x"}, "assert": CONTAINS}])
    target = tmp_path / "suites/mine.jsonl"
    assert write_suite(found, target)
    assert questions_of(target) == found.questions
    assert not write_suite(found, target)
    other = imported(tmp_path, tests=[{"vars": {"q": "y"}, "assert": CONTAINS}])
    with pytest.raises(SuiteExists):
        write_suite(other, target)
    assert questions_of(target) == found.questions
    assert write_suite(other, target, force=True)
    assert questions_of(target) == other.questions
    assert [path.name for path in target.parent.iterdir()] == ["mine.jsonl"]
    with pytest.raises(ImportIncomplete):
        write_suite(other.model_copy(update={"questions": ()}), target, force=True)


@pytest.mark.parametrize("prompt", ["{{ " + "[" * 5000, 5, {"raw": [1]}])
def test_a_prompt_that_is_none_is_refused_by_name(tmp_path: Path, prompt: object) -> None:
    path = tmp_path / "promptfooconfig.json"
    path.write_text(json.dumps({"prompts": [prompt], "tests": [{"vars": 7, "assert": True}]}))
    with pytest.raises(ImportRefused):
        import_config(path)
