/** The playground: sends what the controls say and shows how the answer comes to be. */

import { legend } from "./canvas.js";
import { KeyForm } from "./keys.js";
import { Lane } from "./lane.js";
import { Replay } from "./replay.js";
import { currentRequest, curlOf, examplesFor, oneTokenAStep, tieThreshold } from "./request.js";
import { ApiError, stream } from "./stream.js";

/** @type {string | null} */
let model = null;
/** @type {AbortController | null} set while requests run */
let running = null;

const find = (id) => document.getElementById(id);
const lanes = ["This model", "This model, one token a step"].map((title) => new Lane(find("lane"), title));
const replay = new Replay((count) => lanes.forEach((lane) => lane.draw(count)));
const keys = new KeyForm(
  (id) => {
    model = id;
    find("model").textContent = id;
    showExamples(id);
    say("Ready.");
    showCurl();
  },
  (message) => {
    fail(message);
    showCurl();
  },
);

function say(message) {
  find("status").textContent = message;
  find("error").textContent = "";
}

function fail(message) {
  find("status").textContent = "";
  find("error").textContent = message;
}

function showCurl() {
  find("curl").textContent = curlOf(currentRequest(model), keys.wanted);
}

/** Offers the prompts that suit a model, and writes the first one unless there is one already. */
function showExamples(id) {
  const { prompts, endpoint } = examplesFor(id);
  const buttons = Object.entries(prompts).map(([name, prompt]) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = name;
    button.addEventListener("click", () => {
      find("prompt").value = prompt;
      showCurl();
    });
    return button;
  });
  find("examples").replaceChildren(...buttons);
  if (find("prompt").value === "") {
    [find("prompt").value] = Object.values(prompts);
    find("endpoint").value = endpoint;
  }
}

/** The lanes that take part: the second one in a race only. */
function racing() {
  return find("race").checked ? lanes : lanes.slice(0, 1);
}

async function send() {
  if (running !== null || !find("settings").reportValidity()) {
    return;
  }
  const { path, body } = currentRequest(model);
  const controller = new AbortController();
  const taking = racing();
  running = controller;
  setRunning(true);
  lanes.forEach((lane) => lane.start());
  say("Sent; waiting for the first step.");
  bringIntoView(find("results"));
  const sent = performance.now();
  const stopDrawing = drawWhileRunning(taking, sent);
  const errors = await Promise.all(
    taking.map((lane, i) => fill(lane, path, i === 0 ? body : oneTokenAStep(body), controller.signal, sent)),
  );
  stopDrawing();
  running = null;
  setRunning(false);
  lanes.forEach((lane) => lane.draw());
  replay.follow(Math.max(...taking.map((lane) => lane.recording.frames.length)), false);
  const at = errors.findIndex((error) => error !== null);
  if (at >= 0) {
    const error = errors[at];
    fail(taking.length > 1 ? `${taking[at].title}: ${error.message}` : error.message);
    if (error.status === 401) {
      keys.drop();
      keys.field.focus();
    }
  } else {
    say(summary(taking));
  }
}

/** Runs one request into a lane; returns what went wrong, if anything but the user did. */
async function fill(lane, path, body, signal, sent) {
  const { recording } = lane;
  try {
    for await (const chunk of stream(path, body, keys.key, signal)) {
      recording.take(chunk, performance.now() - sent);
    }
    return null;
  } catch (error) {
    recording.elapsed = performance.now() - sent;
    recording.finish = signal.aborted ? "stopped" : "error";
    if (signal.aborted) {
      return null;
    }
    return error instanceof ApiError ? error : new ApiError(0, `The page failed: ${error.message}`);
  }
}

/** Draws once a picture of the screen, however many chunks came; returns what ends that. */
function drawWhileRunning(taking, sent) {
  let request = requestAnimationFrame(function draw() {
    taking.forEach((lane) => lane.draw(undefined, performance.now() - sent));
    replay.follow(Math.max(...taking.map((lane) => lane.recording.frames.length)), true);
    request = requestAnimationFrame(draw);
  });
  return () => cancelAnimationFrame(request);
}

/** On a phone the answer lies below the controls. */
function bringIntoView(element) {
  if (element.getBoundingClientRect().top > innerHeight / 2) {
    element.scrollIntoView();
  }
}

function setRunning(on) {
  find("send").disabled = on;
  find("stop").disabled = !on;
  find("race").disabled = on;
  lanes.forEach((lane) => lane.canvas.element.setAttribute("aria-busy", String(on)));
}

function summary(taking) {
  const [one, other] = taking.map(({ recording }) => {
    const { tokens, at } = recording.view();
    return `${tokens} tokens in ${(at / 1000).toFixed(2)} s (${recording.finish})`;
  });
  if (other === undefined) {
    return `Done: ${one}.`;
  }
  const same = taking[0].recording.text === taking[1].recording.text;
  const stopped = taking.some(({ recording }) => recording.finish === "stopped");
  const texts = stopped ? "" : same ? " Same text." : " The texts differ.";
  return `Done: ${one}; one token a step: ${other}.${texts}`;
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

function showLanes() {
  lanes[1].element.hidden = !find("race").checked;
}

function start() {
  find("lanes").append(...lanes.map((lane) => lane.element));
  find("legend").append(...legend());
  tieThreshold();
  find("settings").addEventListener("submit", (event) => {
    event.preventDefault();
    send();
  });
  find("settings").addEventListener("input", showCurl);
  find("race").addEventListener("change", showLanes);
  find("stop").addEventListener("click", () => running?.abort());
  find("copy").addEventListener("click", copyCurl);
  find("numbers").addEventListener("change", () => find("lanes").classList.toggle("numbers", find("numbers").checked));
  document.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
      event.preventDefault();
      send();
    } else if (event.key === "Escape") {
      running?.abort();
    }
  });
  showLanes();
  showCurl();
  keys.enter();
}

start();
