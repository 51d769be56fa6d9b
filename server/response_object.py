"""A response of ``/v1/responses`` in each state it goes through."""

import time
import uuid
from typing import Literal

from server.choice import Choice
from server.errors import ApiError
from server.generation import Job
from server.logprobs import PlacedToken, token_entries
from server.protocol.responses import ResponsesRequest
from server.services import Services
from server.text import TextCodec

Status = Literal["in_progress", "completed", "incomplete", "failed"]


class ResponseObject:
    """The response to one request, read from its only choice as that grows."""

    def __init__(self, services: Services, body: ResponsesRequest, job: Job, codec: TextCodec) -> None:
        self._body = body
        self._job = job
        self._codec = codec
        self._created = int(time.time())
        self._head = {
            "id": f"resp_{uuid.uuid4().hex}",
            "object": "response",
            "created_at": self._created,
            "model": services.model_name,
            "system_fingerprint": services.fingerprint(),
        }
        self.item_id = f"msg_{uuid.uuid4().hex}"

    @property
    def choice(self) -> Choice:
        """The answer so far."""
        return self._job.choices[0]

    @property
    def outcome(self) -> Status:
        """How a finished answer ended."""
        return "incomplete" if self.choice.finish_reason == "length" else "completed"

    def state(self, status: Status, *, opened: bool = True, error: ApiError | None = None) -> dict[str, object]:
        """The whole object; ``opened`` is false before the output has an item, ``error`` goes with ``failed``."""
        body = self._body
        state = self._head | {
            "status": status,
            "completed_at": int(time.time()) if status == "completed" else None,
            "error": None if error is None else {"code": "server_error", "message": error.message},
            "incomplete_details": {"reason": "max_output_tokens"} if status == "incomplete" else None,
            "output": [self.item(status)] if opened else [],
            "usage": None if status == "in_progress" else self._usage(),
            "background": False,
            "instructions": body.instructions,
            "max_output_tokens": body.max_output_tokens,
            "metadata": body.metadata,
            "parallel_tool_calls": body.parallel_tool_calls,
            "previous_response_id": None,
            "reasoning": {"effort": body.effort, "summary": None},
            "store": False,
            "temperature": body.temperature,
            "text": {"format": body.text.format.shown()},
            "tool_choice": body.tool_choice or "auto",
            "tools": [],
            "top_logprobs": body.top_logprobs or 0,
            "top_p": body.top_p,
            "truncation": "disabled",
            "user": body.user,
        }
        if body.return_token_ids:
            state["prompt_token_ids"] = self.choice.request.prompt_ids
        return state

    def item(self, status: Status, *, opened: bool = True) -> dict[str, object]:
        """The message of the output; ``opened`` is false before it has any content."""
        return {
            "id": self.item_id,
            "type": "message",
            "role": "assistant",
            "status": "incomplete" if status == "failed" else status,
            "content": [self.part()] if opened else [],
        }

    def part(self, *, opened: bool = True) -> dict[str, object]:
        """The text of the message; ``opened`` is false before there is any."""
        ids = self.choice.token_ids if opened else []
        part: dict[str, object] = {
            "type": "output_text",
            "text": self.choice.text if opened else "",
            "annotations": [],
            "logprobs": self.logprobs(self.choice.logprobs, len(ids)),
        }
        if self._body.return_token_ids:
            part["token_ids"] = ids
        return part

    def logprobs(self, tokens: list[PlacedToken], count: int) -> list[dict[str, object]]:
        """Entries of the first ``count`` of ``tokens``: the token that ended an answer is no part of its text."""
        return token_entries(tokens[:count], self._codec) if self._body.reports_logprobs else []

    def _usage(self) -> dict[str, object]:
        """The usage of the request, under the names of this route."""
        usage = self._job.usage()
        names = {
            "prompt_tokens": "input_tokens",
            "prompt_tokens_details": "input_tokens_details",
            "completion_tokens": "output_tokens",
        }
        return {names.get(name, name): value for name, value in usage.items()} | {
            "output_tokens_details": {"reasoning_tokens": 0}
        }
