"""What happens to requests when engines die under them."""

import asyncio

import pytest

from cdlm.scheduler.errors import EngineDeadError
from cdlm.scheduler.messages import BlockOutput, GenerateRequest, ScoreRequest
from cdlm.scheduler.process.flights import MAX_LIVES, Flights


def generate(name: str) -> GenerateRequest:
    return GenerateRequest(request_id=name, prompt_ids=[1], max_tokens=1)


def test_only_what_had_not_begun_is_handed_on_in_order() -> None:
    async def scenario() -> None:
        flights = Flights()
        opened = {name: flights.open(generate(name)) for name in ("begun", "told", "later", "first")}
        score = flights.open(ScoreRequest(request_id="score", prompt_ids=[1]))
        flights.begin(["begun", "unknown"])
        flights.deliver([BlockOutput(request_id="told", token_ids=[4], partial=True)])
        flights.close(opened["later"])
        flights.fail("died", queued=False)
        assert [request.request_id for request in flights.take_again()] == ["first", "score"]
        with pytest.raises(EngineDeadError, match="died"):
            await opened["begun"].next()
        assert (await opened["told"].next()).token_ids == [4]
        with pytest.raises(EngineDeadError):
            await opened["told"].next()
        flights.deliver([BlockOutput(request_id="score", token_ids=[7])])
        assert (await score.next()).token_ids == [7]

    asyncio.run(scenario())


def test_a_request_that_every_engine_dies_of_is_given_up() -> None:
    async def scenario() -> None:
        flights = Flights()
        flight = flights.open(generate("a"))
        for _ in range(MAX_LIVES - 1):
            flights.fail("died", queued=False)
            assert len(flights.take_again()) == 1
        flights.fail("died", queued=False)
        assert flights.take_again() == []
        with pytest.raises(EngineDeadError):
            await flight.next()

    asyncio.run(scenario())


def test_nothing_waits_for_an_engine_that_will_not_come() -> None:
    async def scenario() -> None:
        flights = Flights()
        flight = flights.open(generate("a"))
        flights.fail("stopped", queued=True)
        with pytest.raises(EngineDeadError, match="stopped"):
            await flight.next()

    asyncio.run(scenario())
