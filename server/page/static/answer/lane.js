/** One request on the page: its title, its canvas and its figures. */

import { CanvasView } from "./canvas.js";
import { Recording } from "./recording.js";

/** @typedef {import("./recording.js").View} View */

const NONE = "\u2013";

/** Names of the figures, and how each is read from a view. */
const FIGURES = {
  "tokens/s": (view) => ratio(1000 * view.tokens, view.at, 1),
  elapsed: (view) => (view.at ? `${(view.at / 1000).toFixed(2)} s` : NONE),
  tokens: (view) => String(view.tokens),
  "denoise steps": (view) => String(view.steps),
  "steps per block": (view) => ratio(view.steps, view.blocks.length, 1),
  "tokens per forward": (view) => (view.usage?.tokens_per_forward ? view.usage.tokens_per_forward.toFixed(2) : NONE),
};

export class Lane {
  /**
   * @param {HTMLTemplateElement} template
   * @param {string} title
   */
  constructor(template, title) {
    this.element = template.content.firstElementChild.cloneNode(true);
    this.element.querySelector("h2").textContent = title;
    this.title = title;
    this.canvas = new CanvasView(this.element.querySelector(".canvas"));
    this.canvas.element.setAttribute("aria-label", `Answer: ${title}`);
    this.values = Object.fromEntries([...Object.keys(FIGURES), "finish"].map((name) => [name, this.addFigure(name)]));
    this.start();
    this.canvas.element.toggleAttribute("data-idle", true);
  }

  addFigure(name) {
    const group = document.createElement("div");
    const term = document.createElement("dt");
    const value = document.createElement("dd");
    term.textContent = name;
    value.textContent = NONE;
    group.append(term, value);
    this.element.querySelector("dl").append(group);
    return value;
  }

  /**
   * Forgets the last request.
   *
   * @param {number} masks how many positions are masked at first, as far as that is known
   * @param {{prompt: string, suffix: string} | null} around text to show around the answer
   */
  start(masks = 0, around = null) {
    this.recording = new Recording();
    this.masks = Array.from({ length: masks }, () => ({ kind: "masked", text: "", step: null }));
    const { element } = this.canvas;
    element.toggleAttribute("data-idle", false);
    for (const [side, text] of [["before", around?.prompt], ["after", around?.suffix]]) {
      element.removeAttribute(`data-${side}`);
      if (text) {
        element.dataset[side] = text;
      }
    }
    this.draw();
  }

  /**
   * Shows what there was after `count` steps.
   *
   * @param {number} count
   * @param {number} [now] milliseconds since sending, while the request runs
   */
  draw(count, now) {
    const view = this.recording.view(count);
    if (now !== undefined && this.recording.finish === null) {
      view.at = now;
      if (view.steps === 0 && this.masks.length > 0) {
        view.blocks = [this.masks];
      }
    }
    this.canvas.draw(view.blocks);
    for (const [name, figure] of Object.entries(FIGURES)) {
      write(this.values[name], figure(view));
    }
    write(this.values.finish, (view.ended && this.recording.finish) || NONE);
  }
}

function ratio(value, by, digits) {
  return by && value ? (value / by).toFixed(digits) : NONE;
}

function write(element, text) {
  if (element.textContent !== text) {
    element.textContent = text;
  }
}
