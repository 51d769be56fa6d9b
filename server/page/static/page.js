/** The playground: sends what the controls say and shows how the answer comes to be. */

import { legend } from "./answer/canvas.js";
import { Lane } from "./answer/lane.js";
import { Replay } from "./answer/replay.js";
import { Run, summary } from "./answer/run.js";
import { Chat } from "./ask/chat.js";
import { Controls } from "./ask/controls.js";
import { linkOf, read } from "./ask/link.js";
import { filled, presetsFor } from "./ask/presets.js";
import { curlOf, oneTokenAStep, requestOf } from "./ask/request.js";
import { keep, reset, restore } from "./ask/store.js";
import { KeyForm } from "./server/keys.js";

/** @type {import("./server/keys.js").Model | null} */
let model = null;
/** @type {Run | null} set while requests run */
let running = null;
/** Whether chat or completion has been chosen: by what was kept, by a link, or for the model. */
let chosen = false;
/** What to say once the model is known. */
let welcome = () => say("Ready.");

const find = (id) => document.getElementById(id);
const lanes = ["This model", "The same, one token per forward"].map((title) => new Lane(find("lane"), title));
const replay = new Replay((count) => lanes.forEach((lane) => lane.draw(count)));
const keys = new KeyForm(meet, () => say("The model is loading; this page waits for it."), fail);
const chat = new Chat({
  onEdit: (question) => {
    controls.write({ prompt: question });
    find("prompt").focus();
  },
  onAgain: () => send(true),
  onNew: () => {
    say("A new chat.");
    show();
    find("prompt").focus();
  },
});
const controls = new Controls(find("settings"), show);

function say(message) {
  find("status").textContent = message;
  find("error").textContent = "";
}

function fail(message) {
  find("status").textContent = "";
  find("error").textContent = message;
  show();
}

/** Shows what the controls amount to. */
function show() {
  const values = controls.values();
  const isChat = values.endpoint === "chat";
  const blocks = hasBlocks();
  find("chat").hidden = !isChat;
  find("suffix-box").hidden = isChat || !(blocks || values.suffix);
  find("race-box").hidden = !blocks;
  document.querySelectorAll(".denoising").forEach((one) => (one.hidden = !blocks));
  find("prompt-label").textContent = isChat ? "Message" : "Prompt";
  find("prompt").placeholder = isChat && chat.turns.length > 0 ? "Your next message" : "";
  lanes[1].element.hidden = !racing(values);
  find("lanes").classList.toggle("numbers", controls.read("numbers") === "1");
  find("curl").textContent = curlOf(requestOf(values, model, chat.messages(values.prompt)), keys.wanted);
}

/** Until the model is known, it is taken to have blocks. */
function hasBlocks() {
  return model?.block_length !== 1;
}

function racing(values) {
  return values.race === "1" && hasBlocks();
}

/** Told of the model, the page offers what suits it. */
function meet(card) {
  model = card;
  const blocks = hasBlocks();
  find("model").textContent = card.id;
  const order = blocks ? `blocks of ${card.block_length}` : "left to right";
  find("facts").textContent = `(${order}, context of ${card.max_model_len} tokens)`;
  find("shows-title").textContent = blocks ? "What diffusion can do" : "More to try";
  lanes.forEach((lane) => (lane.canvas.blocks = blocks));
  find("lanes").classList.toggle("unblocked", !blocks);
  find("legend").replaceChildren(...legend(blocks));
  const { prompts, shows, missing } = presetsFor(card);
  find("prompts").replaceChildren(...prompts.map(presetButton));
  find("shows").replaceChildren(...shows.map(presetButton));
  find("missing").textContent = missing;
  find("missing").hidden = missing === "";
  if (!chosen) {
    controls.write({ endpoint: prompts[0].values.endpoint });
  }
  if (controls.read("prompt") === "" && chat.turns.length === 0) {
    controls.write({ prompt: prompts[0].values.prompt });
  }
  chosen = true;
  show();
  welcome();
  welcome = () => say("Ready.");
}

function presetButton(preset) {
  const button = document.createElement("button");
  button.type = "button";
  button.textContent = preset.name;
  button.addEventListener("click", () => {
    controls.write(filled(preset));
    keep(controls);
    say(preset.note || "Filled in; send it.");
  });
  return button;
}

/** Sends what the controls say, or the last turn of the chat once more. */
async function send(again = false) {
  const values = controls.values();
  const isChat = values.endpoint === "chat";
  if (running !== null || !controls.check()) {
    return;
  }
  if (isChat && !again && values.prompt.trim() === "") {
    fail("Write a message first.");
    find("prompt").focus();
    return;
  }
  const asked = again ? "" : values.prompt;
  const before = again ? chat.turns.at(-1).answer : null;
  const { path, body } = requestOf(values, model, chat.messages(asked));
  const taking = racing(values) ? lanes : lanes.slice(0, 1);
  if (isChat) {
    chat.begin(asked);
    if (!again) {
      controls.write({ prompt: "" });
    }
  }
  const masks = hasBlocks() ? Math.min(model?.block_length ?? 0, body.max_tokens) : 0;
  lanes.forEach((lane) => lane.start(taking.includes(lane) ? masks : 0, isChat ? null : around(values)));
  running = new Run(taking, { key: keys.key, onDraw: (now) => draw(taking, isChat, now), onReport: say });
  setRunning(true);
  say("Sent; waiting for the first step.");
  bringIntoView(find("results"));
  draw(taking, isChat, 0);
  const failed = await running.finish(path, taking.map((_, i) => (i === 0 ? body : oneTokenAStep(body))));
  running = null;
  lanes.forEach((lane) => lane.draw());
  replay.follow(Math.max(...taking.map((lane) => lane.recording.frames.length)), false);
  const { text, finish } = taking[0].recording;
  const back = isChat ? chat.end(text, finish) : "";
  if (back !== "" && controls.read("prompt") === "") {
    controls.write({ prompt: back });
  }
  setRunning(false);
  show();
  if (failed !== null) {
    report(failed, taking);
  } else {
    const same = text === before && values.temperature === "0" && finish !== "stopped";
    say(summary(taking) + (same ? " The same answer: at temperature 0 there is only one." : ""));
  }
}

function report({ lane, error }, taking) {
  fail(taking.length > 1 ? `${lane.title}: ${error.message}` : error.message);
  if (error.status === 401) {
    keys.drop();
    keys.field.focus();
  }
}

function draw(taking, isChat, now) {
  taking.forEach((lane) => lane.draw(undefined, now));
  replay.follow(Math.max(...taking.map((lane) => lane.recording.frames.length)), true);
  if (isChat) {
    chat.grow(taking[0].recording.text);
  }
}

/** The text around an infilled answer; of a long prompt the end. */
function around({ prompt, suffix }) {
  return suffix === "" ? null : { prompt: prompt.length > 160 ? `\u2026 ${prompt.slice(-160).replace(/^\S*\s/, "")}` : prompt, suffix };
}

/** On a phone the answer lies below the controls. */
function bringIntoView(element) {
  if (element.getBoundingClientRect().top > innerHeight / 2) {
    element.scrollIntoView();
  }
}

/** A button that goes out of use hands the focus on, so that the keyboard stays where it is. */
function setRunning(on) {
  const { activeElement } = document;
  find("stop").disabled = !on;
  if (on && (activeElement === find("send") || activeElement === document.body)) {
    find("stop").focus({ preventScroll: true });
  }
  find("send").disabled = on;
  if (!on && (activeElement === find("stop") || activeElement === document.body)) {
    // Not to the message: on a phone its keyboard would cover the answer.
    find("send").focus({ preventScroll: true });
  }
  find("race").disabled = on;
  document.querySelectorAll("#prompts button, #shows button").forEach((button) => (button.disabled = on));
  lanes.forEach((lane) => lane.canvas.element.setAttribute("aria-busy", String(on)));
}

async function copyCurl() {
  const text = find("curl");
  try {
    await navigator.clipboard.writeText(text.textContent);
    say("Copied.");
  } catch {
    // Browsers keep the clipboard from pages that come over plain HTTP from another machine.
    getSelection().selectAllChildren(text);
    say("Selected; copy it with Ctrl+C.");
  }
}

async function copyLink() {
  const values = controls.values();
  if (values.endpoint === "chat" && values.prompt === "") {
    values.prompt = chat.messages("").at(-1).content;
  }
  let link;
  try {
    link = linkOf(values, controls.defaults);
  } catch (error) {
    fail(error.message);
    return;
  }
  try {
    await navigator.clipboard.writeText(link);
    say("The link is copied.");
  } catch {
    history.replaceState(null, "", link);
    say("The link is in the address bar; copy it from there.");
  }
}

/** Fills in what the link in the address says, and takes it out of there, so that a reload keeps what is typed. */
function useLink() {
  let message;
  try {
    const values = read(location.hash, controls);
    if (values === null) {
      return;
    }
    controls.write(values);
    chosen = true;
    message = () => say("Filled in from the link; send it.");
  } catch (error) {
    message = () => fail(error.message);
  }
  history.replaceState(null, "", location.pathname + location.search);
  welcome = message;
  message();
}

function start() {
  find("lanes").append(...lanes.map((lane) => lane.element));
  find("legend").append(...legend(true));
  find("settings").addEventListener("submit", (event) => {
    event.preventDefault();
    send();
  });
  document.addEventListener("input", (event) => event.target.form === find("settings") && keep(controls));
  find("reset").addEventListener("click", () => {
    reset(controls, model ? presetsFor(model).prompts[0].values.endpoint : "chat");
    say("The settings are what they were at first.");
  });
  find("stop").addEventListener("click", () => running?.stop());
  find("copy").addEventListener("click", copyCurl);
  find("link").addEventListener("click", copyLink);
  addEventListener("hashchange", useLink);
  document.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
      event.preventDefault();
      send();
    } else if (event.key === "Escape") {
      running?.stop();
    }
  });
  controls.changed();
  const kept = restore(controls);
  chosen = kept === "read";
  if (kept === "broken") {
    welcome = () => say("The settings that this browser kept cannot be read; these are the first ones.");
  }
  useLink();
  keys.enter();
}

start();
