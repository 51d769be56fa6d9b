"""What requests share: the tokens stay the oracle's, the pages are counted, and unlike prompts share nothing."""

from pathlib import Path

import pytest

from cdlm.model.decoding.params import DecodingParams
from cdlm.scheduler.engine import Engine
from cdlm.scheduler.messages import GenerateRequest
from cdlm.scheduler.options import EngineOptions
from tests.support.engines import Answer, assert_equal_to_oracle, kept_pages, random_requests, run
from tests.support.models.checkpoints import ONE_HALF, OTHER_HALF, axes, build_checkpoint


def make_engine(directory: Path, **options: object) -> Engine:
    return Engine(EngineOptions(model=str(directory), **{"page_size": 4, **options}))  # type: ignore[arg-type]


def ask(engine: Engine, prompt: list[int], max_tokens: int = 20, name: str = "a") -> tuple[Answer, int]:
    """The answer, and how many prompt tokens were computed for it."""
    request = GenerateRequest(request_id=name, prompt_ids=prompt, max_tokens=max_tokens, ignore_eos=True)
    engine.add(request)
    outputs, computed = [], 0
    while engine.busy:
        report = engine.step()
        outputs += report.outputs
        computed += report.stats.admitted_prompt_tokens - report.stats.cached_prompt_tokens
        engine.check()
    assert outputs[0].cached_tokens == len(prompt) - computed
    return Answer(outputs), computed


def prompt_of(length: int, start: int = 1) -> list[int]:
    return [(start + 7 * index) % 61 for index in range(length)]


@axes(sample=ONE_HALF)
def test_the_same_prompts_again_equal_oracle(tmp_path: Path, axis: str) -> None:
    directory = build_checkpoint(tmp_path, axis, seed=5)
    requests = random_requests(10, seed=5)
    engine = make_engine(directory, max_num_seqs=6)
    cold = run(engine, requests, join_every=2)
    assert len(set(kept_pages(engine))) == engine.cache.pool.cached > 0
    warm = run(engine, requests, join_every=1)
    assert_equal_to_oracle(directory, requests, cold)
    assert_equal_to_oracle(directory, requests, warm)


@axes(sample=OTHER_HALF)
def test_requests_that_begin_alike_equal_oracle(tmp_path: Path, axis: str) -> None:
    directory = build_checkpoint(tmp_path, axis, seed=6)
    engine = make_engine(directory, max_num_seqs=3)
    requests = [
        GenerateRequest(request_id=str(index), prompt_ids=prompt_of(length) + tail, max_tokens=21, ignore_eos=True)
        for index, (length, tail) in enumerate([(24, []), (24, [9]), (16, [5, 5]), (24, []), (32, []), (8, [1, 2, 3])])
    ]
    assert_equal_to_oracle(directory, requests, run(engine, requests, join_every=3))


@pytest.mark.parametrize(("length", "page"), [(8, 4), (10, 4), (3, 4), (9, 16), (16, 16)])
def test_where_a_prompt_sees_all_of_itself_only_the_same_prompt_is_shared(
    tmp_path: Path, length: int, page: int
) -> None:
    engine = make_engine(build_checkpoint(tmp_path, "shifted", seed=1), page_size=page)
    prompt = prompt_of(length)
    cold, computed = ask(engine, prompt)
    assert computed == length
    warm, computed = ask(engine, prompt)
    assert computed == 0
    assert warm.token_ids == cold.token_ids
    # The answer was written behind the prompt, in part into its last page; that must not show.
    assert ask(engine, prompt, max_tokens=50)[0].token_ids[:20] == cold.token_ids
    assert ask(engine, [*prompt, 9])[1] == length + 1
    assert ask(engine, prompt[:-1])[1] == length - 1
    assert ask(engine, [prompt[0] + 1, *prompt[1:]])[1] == length


def test_where_blocks_see_earlier_blocks_only_common_beginnings_are_shared(tmp_path: Path) -> None:
    engine = make_engine(build_checkpoint(tmp_path, "absolute", seed=1))  # Blocks of 8, two pages each.
    prompt = prompt_of(27)
    answer, computed = ask(engine, prompt, max_tokens=30)
    assert computed == 27
    assert ask(engine, prompt)[1] == 3  # The rest of a block that is denoised anyway.
    assert ask(engine, prompt[:17] + [60] * 10)[1] == 11
    assert ask(engine, [60] + prompt[1:])[1] == 27
    # A conversation goes on: what was generated is a prompt now. The last block, from 56 on, was never committed.
    longer = prompt + answer.token_ids + [1, 2, 3]
    assert ask(engine, longer)[1] == len(longer) - 56


def test_a_shifted_block_keeps_a_row_to_begin_from(tmp_path: Path) -> None:
    engine = make_engine(build_checkpoint(tmp_path, "absolute_shifted", seed=1))
    prompt = prompt_of(24)
    cold, _ = ask(engine, prompt)
    warm, computed = ask(engine, prompt)
    assert computed == 8
    assert warm.token_ids == cold.token_ids


@pytest.mark.parametrize("page", [1, 3, 4])
def test_where_finished_blocks_are_causal_any_page_is_shared(tmp_path: Path, page: int) -> None:
    """Prompts of all lengths modulo the block, their answers included; the last token is computed for what follows."""
    directory = build_checkpoint(tmp_path, "causal_commit", seed=1)  # Blocks of 8, from the prompt's end.
    engine = make_engine(directory, page_size=page)
    for length in range(20, 28):
        prompt = prompt_of(length, start=length)
        answer, computed = ask(engine, prompt, max_tokens=20)
        assert computed == length
        warm, computed = ask(engine, prompt, max_tokens=20)
        assert warm.token_ids == answer.token_ids
        assert length - computed == (length - 1) // page * page
        # The conversation goes on in the middle of a block, or behind the two blocks that were committed.
        for kept in (3, 16, 20):
            longer = [*prompt, *answer.token_ids[:kept], 60, 61, 62]
            request = GenerateRequest(request_id="a", prompt_ids=longer, max_tokens=11, ignore_eos=True)
            after, computed = ask(engine, longer, max_tokens=11)
            assert len(longer) - computed == (length + min(kept, 16)) // page * page
            assert_equal_to_oracle(directory, [request], {"a": after})


def test_answers_to_one_long_prompt_share_its_prefill(tmp_path: Path) -> None:
    directory = build_checkpoint(tmp_path, "plain", seed=2, max_model_len=512)
    requests = [
        GenerateRequest(request_id=str(index), prompt_ids=prompt_of(200), max_tokens=12, ignore_eos=True)
        for index in range(4)
    ]
    engine = make_engine(directory)
    for request in requests:
        engine.add(request)
    first, second = engine.step().stats, engine.step().stats
    assert (first.batch_rows, first.cached_prompt_tokens) == (1, 0)
    assert (second.batch_rows, second.cached_prompt_tokens) == (4, 600)
    pages = {page for sequence in engine.scheduler.running for page in sequence.pages}
    assert len(pages) == 50 + 4 * 2  # One prompt, and a block of 8 for each.
    while engine.busy:
        engine.step()
    assert_equal_to_oracle(directory, requests[:1], run(engine, requests[:1]))


def test_the_cache_gives_way_to_requests(tmp_path: Path) -> None:
    directory = build_checkpoint(tmp_path, "plain", seed=3, max_model_len=96)
    roomy = make_engine(directory)
    page = roomy.runner.cache.keys[:, :4].numel() * 2 * 4
    engine = make_engine(directory, kv_cache_memory=30 * page)
    requests = random_requests(24, seed=3)
    twice = [*requests, *requests]
    for index in range(0, len(twice), 6):
        batch = twice[index : index + 6]
        assert_equal_to_oracle(directory, batch, run(engine, batch))
        assert engine.cache.pool.free + engine.cache.pool.cached == engine.cache.num_pages
    assert engine.scheduler.preemptions > 0
    assert ask(engine, prompt_of(60))[1] == 60
    assert ask(engine, prompt_of(60))[1] == 0
    assert ask(engine, prompt_of(60, start=2), max_tokens=36)[1] == 60  # All but a few pages: the other had to go.
    assert ask(engine, prompt_of(60))[1] == 60


def small(tmp_path: Path) -> tuple[Path, Engine]:
    """An engine of 14 pages of which a prompt of 6 tokens is kept on two; the last of them it does not fill."""
    directory = build_checkpoint(tmp_path, "plain", seed=3, max_model_len=48)
    page = make_engine(directory).runner.cache.keys[:, :4].numel() * 2 * 4
    engine = make_engine(directory, kv_cache_memory=14 * page)
    assert engine.cache.num_pages == 14
    ask(engine, prompt_of(6), max_tokens=8)
    assert engine.cache.pool.cached == 2
    return directory, engine


def test_a_page_is_copied_before_who_gets_it_in_the_same_step_writes_to_it(tmp_path: Path) -> None:
    directory, engine = small(tmp_path)
    source = kept_pages(engine)[-1]
    requests = [
        GenerateRequest(request_id=name, prompt_ids=prompt, max_tokens=8, ignore_eos=True)
        for name, prompt in (("again", prompt_of(6)), ("large", prompt_of(32, start=5)))
    ]
    for request in requests:
        engine.add(request)
    batch = engine.schedule()
    [(again, (copied, target))] = batch.copies
    assert copied == source
    assert target in again.pages
    assert source in batch.rows[1].pages
    outputs = list(engine.run(batch).outputs)
    while engine.busy:
        engine.check()
        outputs += engine.step().outputs
    answers = {name: Answer([each for each in outputs if each.request_id == name]) for name in ("again", "large")}
    assert_equal_to_oracle(directory, requests, answers)


def test_a_page_that_cannot_be_copied_ends_the_request_that_needs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory, engine = small(tmp_path)
    other = GenerateRequest(request_id="other", prompt_ids=prompt_of(9, start=5), max_tokens=8, ignore_eos=True)
    for request in (GenerateRequest(request_id="again", prompt_ids=prompt_of(6), max_tokens=8), other):
        engine.add(request)

    def fail(_source: int, _target: int) -> None:
        raise ValueError

    monkeypatch.setattr(engine.runner, "copy_page", fail)
    outputs = []
    while engine.busy:
        outputs += engine.step().outputs
        engine.check()
    [ended] = [output for output in outputs if output.request_id == "again"]
    assert ended.error == "ValueError"
    assert_equal_to_oracle(directory, [other], {"other": Answer([each for each in outputs if each is not ended])})
    assert engine.cache.pool.active == 0


def test_switched_off_it_keeps_nothing(tmp_path: Path) -> None:
    engine = make_engine(build_checkpoint(tmp_path), enable_prefix_caching=False)
    for _ in range(2):
        assert ask(engine, prompt_of(20))[1] == 20
    assert engine.cache.pool.free == engine.cache.num_pages


@pytest.mark.parametrize("axis", ["plain", "absolute", "causal_prompt"])
def test_only_requests_with_one_salt_share_pages(tmp_path: Path, axis: str) -> None:
    engine = make_engine(build_checkpoint(tmp_path, axis, seed=1))
    prompt = prompt_of(32)

    def computed(name: str, salt: str) -> int:
        engine.add(GenerateRequest(request_id=name, prompt_ids=prompt, max_tokens=4, ignore_eos=True, cache_salt=salt))
        [output] = [output for _ in range(50) if engine.busy for output in engine.step().outputs]
        return len(prompt) - output.cached_tokens

    again = computed("warm", "") and computed("again", "")
    assert again < 32
    for salt in ("a", "b", "ab", "\ud800"):
        assert computed("other", salt) == 32
        assert computed("same", salt) == again
    assert computed("none", "") == again


def test_equal_prompts_of_two_salts_that_arrive_together_are_computed_twice(tmp_path: Path) -> None:
    engine = make_engine(build_checkpoint(tmp_path, "plain", seed=2, max_model_len=512))
    for index, salt in enumerate(("a", "b", "a")):
        engine.add(
            GenerateRequest(
                request_id=str(index), prompt_ids=prompt_of(200), max_tokens=12, ignore_eos=True, cache_salt=salt
            )
        )
    first, second = engine.step().stats, engine.step().stats
    assert (first.batch_rows, first.cached_prompt_tokens) == (2, 0)
    assert (second.batch_rows, second.cached_prompt_tokens) == (3, 200)
    pages = [set(sequence.pages) for sequence in engine.scheduler.running]
    assert not pages[0] & pages[1]
    assert len(pages[0] & pages[2]) == 50


def test_a_request_without_pages_is_tried_again_when_pages_come_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = build_checkpoint(tmp_path, "plain", seed=3, max_model_len=96)
    page = make_engine(directory).runner.cache.keys[:, :4].numel() * 2 * 4
    engine = make_engine(directory, kv_cache_memory=30 * page)
    slow = DecodingParams(confidence_threshold=1.0)
    for name in ("runs", "waits"):
        prompt = prompt_of(60, start=len(name))
        engine.add(GenerateRequest(request_id=name, prompt_ids=prompt, max_tokens=16, ignore_eos=True, params=slow))
    tried: list[str] = []
    attach = engine.cache.attach
    monkeypatch.setattr(
        engine.cache, "attach", lambda sequence: tried.append(sequence.request.request_id) or attach(sequence)
    )
    ended = []
    for _ in range(200):
        if not engine.busy:
            break
        ended += [output.request_id for output in engine.step().outputs if output.finish_reason]
        engine.check()
    assert ended == ["runs", "waits"]
    assert tried == ["runs", "waits", "waits"]


@pytest.mark.parametrize(("length", "max_tokens"), [(247, 1), (241, 7), (240, 8), (239, 9), (225, 16), (232, 16)])
@pytest.mark.parametrize("axis", ["plain", "shifted", "absolute"])
def test_a_prompt_that_fills_the_pool_can_be_asked_again(
    tmp_path: Path, axis: str, length: int, max_tokens: int
) -> None:
    """The pool has exactly the pages of one request of the full context: none to copy a shared last page into."""
    directory = build_checkpoint(tmp_path, axis, max_model_len=248)
    page = make_engine(directory, page_size=16).runner.cache.keys[:, :16].numel() * 2 * 4
    engine = make_engine(directory, page_size=16, kv_cache_memory=16 * page)
    assert engine.cache.num_pages == 16
    request = GenerateRequest(request_id="a", prompt_ids=prompt_of(length), max_tokens=max_tokens, ignore_eos=True)
    answers = []
    for _ in range(2):
        engine.add(request)
        answers.append([output for _ in range(300) if engine.busy for output in engine.step().outputs])
        assert not engine.busy, "the request waits for ever"
        engine.check()
    assert_equal_to_oracle(directory, [request], {"a": Answer(answers[0])})
    assert Answer(answers[1]).token_ids == Answer(answers[0]).token_ids
