"""From the body of a completion to its work in the engine."""

from cdlm.server.errors import too_long
from cdlm.server.observe.request_log import RequestRecord
from cdlm.server.openai.answers.generation import Job
from cdlm.server.openai.completions.request import CompletionRequest
from cdlm.server.openai.forms.answer_grammar import constraint_grammar
from cdlm.server.services import Services, check_ids, token_budget
from cdlm.server.text import TextCodec


async def plan_completion(
    services: Services, body: CompletionRequest, record: RequestRecord
) -> tuple[Job, TextCodec, list[str]]:
    """The work for a request, the codec of its texts, and the text to return before each prompt's answers, if any.

    Raises ``ApiError``: 400 for fields that the server, the model or other fields do not allow, 503 without an engine.
    """
    body.check_supported(services.settings)
    ready, codec = services.require_ready()
    # Before encoding, so that a huge list costs no time.
    several = "n" if body.best_of is None else "best_of"
    services.gate.check_size(
        len(body.prompt) * (body.candidates + body.scores_prompts),
        body.prompt_param if len(body.prompt) > body.candidates else several,
    )
    bound = None if body.constraint is None else constraint_grammar(body.constraint)
    grammar = await services.checked_grammar(bound, body.stop_token_ids, ready, codec)
    texts = [item for item in body.prompt if isinstance(item, str)]
    given = [item for item in body.prompt if isinstance(item, list)]
    pinned: list[int] = []
    if body.suffix:
        [pinned] = await codec.encode([body.suffix], ready.max_model_len, body.suffix_param, special=False)
        check_ids(pinned, ready, body.suffix_param)
        if len(pinned) > ready.max_model_len:
            raise too_long(ready.max_model_len, str(len(pinned)), body.suffix_param)
        prompts = await codec.encode_infill(
            texts, body.suffix, pinned, ready.max_model_len, body.prompt_param, special=body.add_special_tokens
        )
    else:
        prompts = given or await codec.encode(
            texts, ready.max_model_len, body.prompt_param, special=body.add_special_tokens
        )
    wanted = body.max_tokens if "max_tokens" in body.model_fields_set else None
    budgets = []
    for ids in prompts:
        check_ids(ids, ready, body.prompt_param)
        rest = token_budget(len(ids), wanted, ready, body.prompt_param, guided=body.guidance_scale > 0)
        budgets.append(min(rest, body.max_tokens))
    params = services.decoding_params(body, min(budgets), bound, ready, codec)
    limit = "max_tokens" if min(budgets) == body.max_tokens else None
    await services.grammars.check_room(bound, min(budgets), limit, body.prompt_param, codec, ready)
    echoes = [
        item if isinstance(item, str) else codec.decode(item, keep_special=True)
        for item in (body.prompt if body.echo else [])
    ]
    job = Job.plan(
        services, codec, record, body, params, prompts, budgets, echoes=echoes, score_prompts=body.scores_prompts,
        pinned=pinned[: ready.block_length], grammar=grammar,
    )  # fmt: skip
    return job, codec, echoes
