"""The judge: replies of every kind, failures of the endpoint, the key, and continuation."""

import pytest

from sparsight.errors import InputError, ModelError, SettingError
from sparsight.evaluate.judge import client
from sparsight.evaluate.judge.client import Endpoint
from sparsight.evaluate.judge.judging import Judge, Verdicts, find_only_judge, judge_all
from sparsight.evaluate.judge.verdicts import mark_similarity, mark_verdict
from sparsight.evaluate.judge.wordings import OWN, VIDEO, read_wordings
from sparsight.evaluate.tasks import TASKS
from sparsight.evaluate.tasks.lines import Reply
from tests.support.judge import Fault, run_judge

TASK = TASKS["msvd"]
GOOD = '{"pred": "yes", "score": 4}'


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """No waiting between tries, no key, no proxy; the waits that were asked for."""
    waits = []
    monkeypatch.setattr(client, "_wait", waits.append)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    for name in client.KEYS:
        monkeypatch.delenv(name, raising=False)
    return waits


def reply(number=0, prediction="a cat"):
    texts = dict.fromkeys(("run", "part", "group", "prompt"), "")
    return Reply(
        configuration="dense",
        id=str(number),
        question="what runs",
        target="cat",
        prediction=prediction,
        visual_tokens=1,
        mean_visual_tokens=1.0,
        mean_visual_tokens_authors=1.0,
        prefill_flops=1,
        dense_prefill_flops=1,
        seconds=0.0,
        **texts,
    )


def judge_with(url, path, *replies, timeout=5.0):
    judge = Judge("owl", OWN, Endpoint(url, "owl", timeout))
    verdicts = Verdicts(path / "verdicts.jsonl", repair=True)
    pairs = [(TASK, one) for one in replies or (reply(),)]
    judge_all(judge, pairs, verdicts)
    return [TASK.mark(verdicts.read(judge, *pair), "") for pair in pairs]


@pytest.mark.parametrize(
    ("text", "mark"),
    [
        ("{'pred': 'yes', 'score': 4}", [1, 4]),
        (GOOD, [1, 4]),
        ('{"pred": "no", "score": 4.8}', [0, 4]),
        ('{"pred": "Yes", "score": "3"}', [1, 3]),
        ('Sure! {"pred": "yes", "score": 5} I hope this helps.', [1, 5]),
        ('```json\n{"pred": "no", "score": 0}\n```', [0, 0]),
        ("{'pred': True, 'score': 5}", [1, 5]),
        ('{"pred": "yes or no", "score": 2}', [1, 2]),
        ('{"pred": "yes"}', None),
        ('{"pred": "maybe", "score": 2}', None),
        ('{"pred": "yes", "score": 9}', None),
        ('{"pred": "yes", "score": true}', None),
        ('{"pred": "yes", "score": NaN}', None),
        ("{__import__('os'): 1}", None),
        ("yes", None),
        ("", None),
        ("{" * 5000, None),
    ],
)
def test_verdicts_on_videos(text, mark):
    assert mark_verdict(text) == mark


@pytest.mark.parametrize(
    ("text", "mark"),
    [
        ("0.7", 0.7),
        ("1.0", 1.0),
        ("1", 1.0),
        ("Correctness: 0.4.", 0.4),
        ("0.4. The colour is wrong.", 0.4),
        ("0.4 of 1.0", None),
        ("-0.5", None),
        ("Correctness: \u22120.5", None),
        ("1. wrong", None),
        ("Two faults:\n- 1) wrong colour", None),
        ("**1.** wrong", None),
        ("7", None),
        ("-", None),
        ("", None),
    ],
)
def test_scores_of_images(text, mark):
    assert mark_similarity(text) == mark


def test_a_request_is_openai_s(tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "other")
    monkeypatch.setenv("SPARSIGHT_JUDGE_KEY", " secret\n")
    with run_judge() as (url, seen):
        assert judge_with(f"{url}/chat/completions/", tmp_path) == [[1, 4]]
    assert seen[0]["path"] == "/v1/chat/completions"
    assert seen[0]["key"] == "Bearer secret"
    assert (seen[0]["model"], seen[0]["temperature"]) == ("owl", 0)
    assert [message["role"] for message in seen[0]["messages"]] == ["system", "user"]
    text = (tmp_path / "verdicts.jsonl").read_text()
    assert "owl-0613" in text
    assert "secret" not in text


@pytest.mark.parametrize(
    "fault",
    [Fault(429), Fault(500), Fault(0), Fault(seconds=1.0), Fault(body="no JSON"), Fault(body="{}")],
    ids=["429", "500", "cut", "slow", "no JSON", "no choices"],
)
def test_what_may_pass_is_tried_again(tmp_path, quick, fault):
    with run_judge(fault, GOOD) as (url, seen):
        assert judge_with(url, tmp_path, timeout=0.5) == [[1, 4]]
    assert len(seen) == 2
    assert quick == [1.0]


def test_an_endpoint_that_stays_down_stops_and_keeps(tmp_path, quick):
    why = r"failed 5 times \(HTTP 500\); what it marked is kept"
    with run_judge(GOOD, always=Fault(500)) as (url, _), pytest.raises(ModelError, match=why):
        judge_with(url, tmp_path, reply(0), reply(1, "a dog"))
    assert quick == [1.0, 2.0, 4.0, 8.0]
    assert len(Verdicts(tmp_path / "verdicts.jsonl", repair=True).rows) == 1


@pytest.mark.parametrize(
    ("status", "part"), [(401, "SPARSIGHT_JUDGE_KEY"), (404, "ends in /v1"), (400, "--judge-model")]
)
def test_refusals_are_told_at_once(tmp_path, status, part):
    with run_judge(always=Fault(status)) as (url, seen), pytest.raises(ModelError, match=part):
        judge_with(url, tmp_path)
    assert len(seen) == 1


def test_a_wrong_path_is_told(tmp_path):
    with run_judge(path="/other") as (url, _), pytest.raises(ModelError, match="HTTP 404"):
        judge_with(url, tmp_path)


def test_the_key_follows_no_redirect(tmp_path, monkeypatch):
    monkeypatch.setenv("SPARSIGHT_JUDGE_KEY", "secret")
    with run_judge() as (other, stolen):
        away = Fault(302, location=f"{other}/chat/completions")
        with run_judge(always=away) as (url, _), pytest.raises(ModelError, match="HTTP 302"):
            judge_with(url, tmp_path)
    assert stolen == []


def test_replies_that_cannot_be_read_stay_unjudged_and_are_asked_again(tmp_path):
    with run_judge("?", "?", "?") as (url, seen):
        assert judge_with(url, tmp_path) == [None]
        assert len(seen) == 3
        assert judge_with(url, tmp_path) == [[1, 4]]
        assert judge_with(url, tmp_path) == [[1, 4]]
    assert len(seen) == 4
    assert len((tmp_path / "verdicts.jsonl").read_text().splitlines()) == 2


def test_equal_answers_are_asked_about_once(tmp_path):
    with run_judge() as (url, seen):
        marks = judge_with(url, tmp_path, reply(0), reply(1), reply(2, "a dog"))
    assert marks == [[1, 4], [1, 4], [0, 1]]
    assert len(seen) == 2


def test_another_judge_or_wording_is_another_verdict(tmp_path):
    other = {**OWN, "video": type(VIDEO)("Grade.", VIDEO.user)}
    keys = {
        Judge("owl", OWN).make_key(TASK, reply()),
        Judge("eagle", OWN).make_key(TASK, reply()),
        Judge("owl", other).make_key(TASK, reply()),
        Judge("owl", OWN).make_key(TASK, reply(prediction="a dog")),
    }
    assert len(keys) == 4
    with run_judge() as (url, _):
        judge_with(url, tmp_path)
    verdicts = Verdicts(tmp_path / "verdicts.jsonl", repair=True)
    assert find_only_judge(verdicts, OWN).model == "owl"
    verdicts.add(next(iter(verdicts.rows.values())) | {"key": "k", "asked_judge": "eagle"})
    with pytest.raises(SettingError, match="verdicts of eagle, owl"):
        find_only_judge(verdicts, OWN)


def test_places_are_filled_once():
    wording = type(VIDEO)("", "{question}|{answer}|{prediction}")
    messages = wording.write("{answer}", "{prediction}", "x")
    assert messages[1]["content"] == "{answer}|{prediction}|x"


def test_wordings_of_a_file(tmp_path):
    path = tmp_path / "prompt.json"
    path.write_text('{"video": {"system": "s", "user": "{question} {answer} {prediction}"}}')
    assert read_wordings(path)["video"].system == "s"
    assert read_wordings(path)["similarity"] == OWN["similarity"]
    for text, part in [
        ("[]", "is no prompt of a judge"),
        ('{"video": {"system": "s", "user": "{question}"}}', "video has no {answer}"),
        ('{"audio": {"system": "", "user": "{question}{answer}{prediction}"}}', "is not known"),
    ]:
        path.write_text(text)
        with pytest.raises(InputError, match=part):
            read_wordings(path)
    with pytest.raises(InputError, match="cannot be read"):
        read_wordings(tmp_path / "nothing.json")


@pytest.mark.parametrize("url", ["ftp://host/v1", "host", "http://me:word@host/v1", "http://"])
def test_odd_addresses_are_refused(url):
    with pytest.raises(SettingError) as error:
        Endpoint(url, "owl")
    assert "word@" not in str(error.value)


def test_odd_keys_are_not_shown(monkeypatch):
    monkeypatch.setenv("SPARSIGHT_JUDGE_KEY", "se\ncret")
    with pytest.raises(SettingError) as error:
        client.read_key()
    assert "cret" not in str(error.value)
