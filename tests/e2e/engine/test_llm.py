"""``cdlm.LLM``: the engine from Python."""

import asyncio
import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import cdlm
from cdlm.model.assets import BUNDLED_STUDENT
from cdlm.scheduler.messages import GenerateRequest
from cdlm.scheduler.offline import OfflineEngine
from cdlm.scheduler.options import EngineOptions
from tests.support.server.served import POOL

QUESTION = "Tom has 14 apples. Then Tom buys 3 bags of 12 apples. How many apples does Tom have now?"
TOOL = {
    "type": "function",
    "function": {"name": "add", "parameters": {"type": "object", "properties": {"a": {"type": "integer"}}}},
}


@pytest.fixture(scope="module")
def llm() -> Iterator[cdlm.LLM]:
    with cdlm.LLM("cdlm-nano", threads=1, kv_cache_memory=POOL) as llm:
        yield llm


def gone(pids: list[int | None]) -> bool:
    """Whether those processes end, within half a minute."""
    for _ in range(300):
        if not any(Path(f"/proc/{pid}").exists() for pid in pids):
            return True
        time.sleep(0.1)
    return False


def test_answers_are_the_engine_s(llm: cdlm.LLM) -> None:
    [one] = llm.generate(QUESTION, cdlm.SamplingParams(max_tokens=96))
    engine = OfflineEngine(EngineOptions(model=str(BUNDLED_STUDENT), threads=1))
    request = GenerateRequest(request_id="0", prompt_ids=one.prompt_token_ids, max_tokens=96)
    [done] = engine.generate([request])
    [answer] = one.outputs
    assert answer.token_ids == done.token_ids
    assert (answer.finish_reason, one.denoise_steps, one.forward_passes) == (
        done.finish_reason,
        done.denoise_steps,
        done.forward_passes,
    )
    assert (
        answer.text
        == one.text
        == "".join(chunk.text for chunk in llm.stream(QUESTION, cdlm.SamplingParams(max_tokens=96)))
    )


def test_every_draw_has_the_steps_of_its_tokens(llm: cdlm.LLM) -> None:
    params = cdlm.SamplingParams(max_tokens=64, n=2, temperature=2, seed=5)
    [drawn] = llm.generate(QUESTION, params, return_step_map=True)
    first, second = drawn.outputs
    assert first.step_map is not None
    assert second.step_map is not None
    assert first.step_map != second.step_map
    assert [len(one.step_map or []) for one in drawn.outputs] == [len(one.token_ids) for one in drawn.outputs]
    chunks = list(llm.stream(QUESTION, params, return_step_map=True))
    assert [step for chunk in chunks if chunk.index == 0 for step in chunk.step_map or []] == first.step_map
    messages = [{"role": "user", "content": QUESTION}]
    [chat] = llm.chat(messages, cdlm.SamplingParams(max_tokens=40), return_step_map=True)
    assert len(chat.outputs[0].step_map or []) == len(chat.outputs[0].token_ids) > 0
    [plain] = llm.generate(QUESTION, cdlm.SamplingParams(max_tokens=8))
    assert plain.outputs[0].step_map is None


def test_a_batch_keeps_its_order_and_each_prompt_its_params(llm: cdlm.LLM) -> None:
    prompts = [QUESTION, "def add(a, b):", "Hello"]
    params = [cdlm.SamplingParams(max_tokens=count) for count in (96, 5, 40)]
    together = llm.generate(prompts, params)
    alone = [llm.generate(prompt, one)[0] for prompt, one in zip(prompts, params, strict=True)]
    assert [answer.outputs for answer in together] == [answer.outputs for answer in alone]
    ids = [answer.prompt_token_ids for answer in together]
    assert [answer.outputs for answer in llm.generate(ids, params)] == [answer.outputs for answer in alone]
    with pytest.raises(ValueError, match="2 params for 3 prompts"):
        llm.generate(prompts, params[:2])


def test_fields_may_be_what_python_has_for_them(recwarn: pytest.WarningsRecorder) -> None:
    for fields, sent in (
        ({"stop": ["a", "b"]}, {"stop": ["a", "b"]}),
        ({"stop": ("a",)}, {"stop": ["a"]}),
        ({"stop": "a"}, {"stop": ["a"]}),
        ({"logit_bias": {5: 1, "6": -2.5}}, {"logit_bias": {"5": 1.0, "6": -2.5}}),
    ):
        assert json.loads(json.dumps(cdlm.SamplingParams(**fields).of_completion())) == sent
    with pytest.raises(ValueError, match="'-5', 'True' must be a token id"):
        cdlm.SamplingParams(logit_bias={-5: 1, True: 1})
    assert not recwarn.list


def test_what_ended_an_answer(llm: cdlm.LLM) -> None:
    [[plain]] = [answer.outputs for answer in llm.generate(QUESTION, cdlm.SamplingParams(max_tokens=96))]
    own, string = plain.token_ids[3], plain.text[2:7]
    for fields, reason in (({}, None), ({"stop": [string]}, string), ({"stop_token_ids": [own]}, own)):
        params = cdlm.SamplingParams(max_tokens=96, **fields)
        [[answer]] = [answer.outputs for answer in llm.generate(QUESTION, params)]
        assert (answer.finish_reason, answer.stop_reason) == ("stop", reason)
        *_, last = llm.stream(QUESTION, params)
        assert (last.finish_reason, last.stop_reason) == ("stop", reason)


def test_more_prompts_than_rows(llm: cdlm.LLM) -> None:
    few_steps = cdlm.SamplingParams(max_tokens=2, confidence_threshold=0.1)
    answers = llm.generate([f"Number {index}" for index in range(80)], few_steps)
    assert len(answers) == 80  # 64 run at once.
    assert all(len(answer.outputs[0].token_ids) <= 2 for answer in answers)


def test_logprobs_are_those_of_the_tokens(llm: cdlm.LLM) -> None:
    params = cdlm.SamplingParams(max_tokens=96, logprobs=3)
    for [answer] in (llm.generate(QUESTION, params), llm.chat([{"role": "user", "content": QUESTION}], params)):
        [output] = answer.outputs
        assert output.logprobs is not None
        assert [one.token_id for one in output.logprobs] == output.token_ids
        for one in output.logprobs:
            assert one.top[one.token_id] == pytest.approx(one.logprob)
            assert max(one.top.values()) <= 0
    assert llm.generate(QUESTION)[0].outputs[0].logprobs is None


def test_a_bad_word_is_not_written(llm: cdlm.LLM) -> None:
    chat = [{"role": "user", "content": QUESTION}]
    for ask in (lambda params: llm.generate(QUESTION, params), lambda params: llm.chat(chat, params)):
        [plain] = ask(cdlm.SamplingParams(max_tokens=96))
        word = max(plain.text.split(), key=plain.text.split().count)
        [answer] = ask(cdlm.SamplingParams(max_tokens=96, bad_words=[word]))
        assert word not in answer.text.split()
        assert answer.text
        ids = sorted(set(plain.outputs[0].token_ids[:3]))
        [answer] = ask(cdlm.SamplingParams(max_tokens=24, allowed_token_ids=ids))
        assert set(answer.outputs[0].token_ids) <= set(ids)
        assert answer.outputs[0].finish_reason == "length"


def test_several_answers_differ_and_a_seed_repeats_them(llm: cdlm.LLM) -> None:
    params = cdlm.SamplingParams(max_tokens=64, n=4, temperature=1.5, seed=3)
    [first], [again] = llm.generate(QUESTION, params), llm.generate(QUESTION, params)
    assert [output.index for output in first.outputs] == [0, 1, 2, 3]
    assert len({output.text for output in first.outputs}) > 1
    assert first.outputs == again.outputs


def test_chats_and_tools(llm: cdlm.LLM) -> None:
    chat = [{"role": "user", "content": "Hello"}]
    single, pair = llm.chat(chat), llm.chat([chat, chat])
    assert [answer.text for answer in pair] == [single[0].text] * 2
    assert "".join(chunk.text for chunk in llm.stream(chat)) == single[0].text
    fields = {"tools": [TOOL], "tool_choice": "required"}
    [called] = llm.chat(chat, cdlm.SamplingParams(max_tokens=200), **fields)
    [call] = called.outputs[0].tool_calls
    assert call["function"]["name"] == "add"
    chunks = list(llm.stream(chat, cdlm.SamplingParams(max_tokens=200), **fields))
    parts = [part["function"].get("arguments", "") for chunk in chunks for part in chunk.tool_calls]
    assert "".join(parts) == call["function"]["arguments"]


def test_an_answer_follows_a_schema(llm: cdlm.LLM) -> None:
    params = cdlm.SamplingParams(max_tokens=200, json_schema={"enum": [17, 18]})
    assert llm.generate("Hello", params)[0].text in ("17", "18")


def test_a_stream_shows_the_canvas_fill(llm: cdlm.LLM) -> None:
    chunks = list(llm.stream(QUESTION, cdlm.SamplingParams(max_tokens=32), granularity="step", canvas=True))
    shown = [chunk.canvas for chunk in chunks if chunk.canvas is not None]
    assert [canvas.step for canvas in shown] == list(range(1, len(shown) + 1))
    assert None in shown[0].tokens
    assert chunks[-1].finish_reason is not None


def test_a_stream_that_is_closed_leaves_the_engine(llm: cdlm.LLM) -> None:
    """Two at a time, of which one is left: the other goes on, and both rows are free afterwards."""
    long = cdlm.SamplingParams(max_tokens=1000, ignore_eos=True)
    left, kept = llm.stream(QUESTION, long), llm.stream(QUESTION, cdlm.SamplingParams(max_tokens=64))
    next(left)
    next(kept)
    left.close()  # type: ignore[attr-defined]
    assert list(kept)[-1].finish_reason is not None
    client = llm._app.client
    for _ in range(100):
        if client.in_flight == 0 and client.stats.running == 0:
            return
        time.sleep(0.1)
    raise AssertionError("the engine works on")


@pytest.mark.parametrize(
    ("call", "param"),
    [
        (lambda llm: llm.generate(""), "prompt"),
        (lambda llm: llm.generate(["fine", ""]), "prompt"),
        (lambda llm: llm.generate([10**6]), "prompt"),
        (lambda llm: llm.generate("x", cdlm.SamplingParams(max_tokens=10**6)), "prompt"),
        (lambda llm: llm.chat([{"role": "user"}]), "messages[0]"),
        (lambda llm: llm.chat([{"role": "user", "content": "x"}], temprature=1), "temprature"),
        (lambda llm: list(llm.stream("x", suffx="y")), "suffx"),
    ],
)
def test_what_cannot_be_served_names_the_field(llm: cdlm.LLM, call: object, param: str) -> None:
    with pytest.raises(cdlm.RequestError) as caught:
        call(llm)  # type: ignore[operator]
    assert caught.value.param == param
    assert isinstance(caught.value, ValueError)
    assert llm.generate("Hello")[0].text


def test_a_wrong_parameter_is_refused_at_once() -> None:
    for fields in ({"temperature": -1}, {"temprature": 1}, {"n": 0}, {"stop": [""]}, {"max_tokens": 0}):
        with pytest.raises(ValueError, match=next(iter(fields))):
            cdlm.SamplingParams(**fields)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"model": "/nowhere"}, "/nowhere"),
        ({"port": 8000}, "port is not a setting of LLM"),
        ({"threads": 0}, "threads"),
        ({"device": "cuda:77"}, "cuda:77"),
        ({"adapter": "/nowhere"}, "adapter"),
    ],
)
def test_what_cannot_be_loaded_says_why(settings: dict[str, object], words: str) -> None:
    before = threading.active_count()
    with pytest.raises(cdlm.LoadError, match=words):
        cdlm.LLM(**settings)
    deadline = time.monotonic() + 10
    while threading.active_count() > before and time.monotonic() < deadline:
        time.sleep(0.05)  # One that is just ending.
    assert threading.active_count() <= before, threading.enumerate()


def test_calls_from_threads_and_from_a_running_loop(llm: cdlm.LLM) -> None:
    expected = llm.generate("Hello")[0].text
    found: list[str] = []
    threads = [threading.Thread(target=lambda: found.append(llm.generate("Hello")[0].text)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    async def as_in_a_notebook() -> None:
        found.append(llm.generate("Hello")[0].text)

    asyncio.run(as_in_a_notebook())
    assert found == [expected] * 9
