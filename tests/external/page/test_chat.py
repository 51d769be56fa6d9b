"""A chat with turns: its history, edits, answers again, a new chat."""

from collections.abc import Callable
from typing import Any

import pytest
from playwright.sync_api import Request, expect

from tests.external.page.conftest import Opened, answer_of, changed_body, request_of
from tests.support.server.served import Server

APPLES = "Tom has 14 apples. Then Tom buys 3 bags of 12 apples. How many apples does Tom have now?"
STICKERS = "Mia has 25 stickers. Then Mia buys 4 packs of 6 stickers. How many stickers does Mia have now?"


class Chat:
    """The page as a chat, and the bodies that it sent."""

    def __init__(self, page: Opened) -> None:
        self.page = page
        self.sent: list[dict[str, Any]] = []
        page.load()
        page.send_as("chat")
        page.page.on("request", self._note)

    def _note(self, request: Request) -> None:
        if request.url.endswith("/v1/chat/completions"):
            self.sent.append(request.post_data_json)

    def ask(self, question: str) -> str:
        """Sends a message; returns the answer as the conversation shows it."""
        self.page.settings(prompt=question)
        self.page.run()
        assert self.page.page.input_value("#prompt") == ""
        return self.said[-1][1]

    @property
    def said(self) -> list[tuple[str, str]]:
        """The turns on the page: what was asked and what was answered."""
        pairs: list[list[str]] = self.page.page.locator("#turns li").evaluate_all(
            "all => all.map(one => [...one.querySelectorAll('.said')].map(said => said.textContent))"
        )
        return [(question, answer) for question, answer in pairs]

    def press(self, name: str) -> None:
        self.page.page.get_by_role("button", name=name, exact=True).click()


@pytest.fixture
def chat(opened: Callable[..., Opened]) -> Chat:
    return Chat(opened())


def user(content: str) -> dict[str, str]:
    return {"role": "user", "content": content}


def assistant(content: str) -> dict[str, str]:
    return {"role": "assistant", "content": content}


def test_each_message_goes_out_with_the_turns_before_it(chat: Chat, server: Server) -> None:
    first = chat.ask(APPLES)
    assert first == answer_of(server, chat.sent[0])[0] != ""
    second = chat.ask(STICKERS)
    assert [body["messages"] for body in chat.sent] == [
        [user(APPLES)],
        [user(APPLES), assistant(first), user(STICKERS)],
    ]
    assert second == answer_of(server, chat.sent[1])[0] == chat.page.canvas()
    assert chat.said == [(APPLES, first), (STICKERS, second)]
    # The command is the one of the answer that is shown, until a new message is written.
    assert request_of(chat.page) == chat.sent[1]
    chat.page.settings(prompt="And now?")
    history = [user(APPLES), assistant(first), user(STICKERS), assistant(second), user("And now?")]
    assert request_of(chat.page)["messages"] == history
    chat.page.screenshot("chat")


@pytest.mark.whole
def test_an_edited_turn_replaces_what_follows(chat: Chat) -> None:
    first = chat.ask(APPLES)
    chat.ask("hello")
    chat.ask("hello again")
    chat.press("Edit turn 2")
    expect(chat.page.page.locator("#prompt")).to_be_focused()
    assert chat.page.page.input_value("#prompt") == "hello"
    expect(chat.page.page.locator("#editing")).to_contain_text(
        "Editing turn 2: its answer and all later turns will be replaced."
    )
    chat.press("Keep it as it was")
    expect(chat.page.page.locator("#editing")).to_be_hidden()
    assert chat.page.page.input_value("#prompt") == ""
    assert len(chat.said) == 3
    chat.press("Edit turn 2")
    answer = chat.ask(STICKERS)
    assert chat.sent[-1]["messages"] == [user(APPLES), assistant(first), user(STICKERS)]
    assert chat.said == [(APPLES, first), (STICKERS, answer)]
    expect(chat.page.page.locator("#editing")).to_be_hidden()


@pytest.mark.whole
def test_a_turn_is_answered_again(chat: Chat) -> None:
    first = chat.ask(APPLES)
    chat.page.settings(prompt="half a mess")
    chat.press("Answer again")
    chat.page.wait_end()
    assert chat.sent[1] == chat.sent[0]
    assert chat.said == [(APPLES, first)]
    assert chat.page.page.input_value("#prompt") == "half a mess"
    status = chat.page.page.locator("#status")
    expect(status).to_contain_text("The same answer: at temperature 0 there is only one.")
    chat.page.settings(temperature="1.5", seed="5")
    chat.press("Answer again")
    chat.page.wait_end()
    assert chat.said[0][1] != first
    assert "The same answer" not in status.inner_text()


@pytest.mark.whole
def test_a_new_chat_forgets_the_turns(chat: Chat) -> None:
    expect(chat.page.page.locator("#new-chat")).to_be_disabled()
    chat.ask(APPLES)
    expect(chat.page.page.locator("#send")).to_be_focused()
    chat.press("New chat")
    expect(chat.page.page.locator("#prompt")).to_be_focused()
    assert chat.said == []
    chat.ask(STICKERS)
    assert chat.sent[-1]["messages"] == [user(STICKERS)]


@pytest.mark.whole
def test_a_message_that_is_refused_comes_back(opened: Callable[..., Opened]) -> None:
    chat = Chat(opened(complaints=("status of 400",)))
    first = chat.ask(APPLES)
    chat.page.settings(max_tokens="100000", prompt=STICKERS)
    chat.page.run()
    assert "maximum context length" in chat.page.page.locator("#error").inner_text()
    assert chat.page.page.input_value("#prompt") == STICKERS
    assert chat.said == [(APPLES, first)]
    chat.press("Edit turn 1")
    chat.page.run()
    expect(chat.page.page.locator("#editing")).to_contain_text("Editing turn 1: its answer will be replaced.")
    assert chat.page.page.input_value("#prompt") == APPLES
    assert chat.said == [(APPLES, first)]


def test_what_was_said_until_a_stop_stays(chat: Chat, server: Server) -> None:
    chat.page.settings(tau="1", max_tokens="1500", prompt=APPLES)
    with changed_body(chat.page.page, {"ignore_eos": True}, "**/v1/chat/completions"):
        chat.page.page.click("#send")
        expect(chat.page.page.locator("#turns .answer .said")).to_contain_text("Tom", timeout=20_000)
        expect(chat.page.page.get_by_role("button", name="Edit turn 1")).to_be_disabled()
        # Screen readers hear that it goes on.
        expect(chat.page.page.locator("#status")).to_contain_text("tokens in", timeout=20_000)
        assert chat.page.page.locator("#status").inner_text().startswith("So far ")
        chat.page.page.keyboard.press("Escape")
        chat.page.wait_end()
    server.wait_idle()
    [(_, said)] = chat.said
    assert said != ""
    assert chat.page.page.locator("#turns .answer").get_attribute("data-finish") == "stopped"
    chat.page.settings(tau="", max_tokens="64")
    chat.ask(STICKERS)
    assert chat.sent[-1]["messages"] == [user(APPLES), assistant(said), user(STICKERS)]


@pytest.mark.whole
def test_an_empty_message_is_not_sent(chat: Chat) -> None:
    chat.page.settings(prompt="  ")
    chat.page.page.click("#send")
    expect(chat.page.page.locator("#error")).to_have_text("Write a message first.")
    expect(chat.page.page.locator("#prompt")).to_be_focused()
    assert chat.sent == []


def test_markup_in_a_conversation_stays_text(chat: Chat) -> None:
    attack = '<img src=x onerror="document.title=1"><b>bold</b>'
    chat.page.settings(max_tokens="8")
    chat.ask(attack)
    assert chat.said[0][0] == attack
    assert chat.page.page.locator("#turns img, #turns b").count() == 0
    assert chat.page.page.title() == "cdlm-serve playground"
