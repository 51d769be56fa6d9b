/** Draws the blocks of an answer, each token in the color of the denoise step that finalized it. */

/** @typedef {import("./recording.js").Position} Position */

/** The last step of its block that has each of the eight colors; docs/streaming.md says how steps count. */
const LAST_STEPS = [1, 2, 3, 4, 6, 10, 20, Infinity];

/** @param {number} step from 1 on */
function color(step) {
  return `step-${1 + LAST_STEPS.findIndex((last) => step <= last)}`;
}

/** @returns {HTMLLIElement[]} what the colors and marks mean */
export function legend() {
  const entries = LAST_STEPS.map((last, i) => {
    const first = i === 0 ? 1 : LAST_STEPS[i - 1] + 1;
    const range = first === last ? `${first}` : last === Infinity ? `${first}+` : `${first}\u2013${last}`;
    return entry(`swatch ${color(first)}`, range, i === 0 ? "denoise step" : "");
  });
  const marks = { masked: "masked", blank: "without text, such as the end", unused: "not needed" };
  return [...entries, ...Object.entries(marks).map(([kind, meaning]) => entry(kind, "", meaning))];
}

function entry(classes, shown, meaning) {
  const item = document.createElement("li");
  const mark = document.createElement("span");
  mark.className = classes;
  mark.textContent = shown;
  item.append(mark, meaning);
  return item;
}

/** The canvas in `element`; its text content is the text of the answer, and marks are drawn by the style sheet. */
export class CanvasView {
  /** @param {HTMLElement} element */
  constructor(element) {
    this.element = element;
    /** What each position shows, so that only those are touched that change. */
    this.drawn = [];
  }

  /** @param {Position[][]} blocks */
  draw(blocks) {
    const follows = this.element.scrollHeight - this.element.scrollTop - this.element.clientHeight < 40;
    while (this.element.children.length > blocks.length) {
      this.element.lastElementChild.remove();
      this.drawn.pop();
    }
    blocks.forEach((positions, i) => this.drawBlock(positions, i));
    if (follows) {
      this.element.scrollTop = this.element.scrollHeight;
    }
  }

  drawBlock(positions, i) {
    if (i === this.drawn.length) {
      const block = document.createElement("span");
      block.dataset.block = String(i + 1);
      this.element.append(block);
      this.drawn.push([]);
    }
    const block = this.element.children[i];
    positions.forEach((position, j) => {
      const state = `${position.kind} ${position.step} ${position.text}`;
      if (this.drawn[i][j] === state) {
        return;
      }
      this.drawn[i][j] = state;
      const mark = block.children[j] ?? block.appendChild(document.createElement("span"));
      mark.className = classesOf(position);
      mark.textContent = position.text;
      if (position.step === null) {
        delete mark.dataset.step;
        mark.removeAttribute("title");
      } else {
        mark.dataset.step = String(position.step);
        mark.title = `step ${position.step}`;
      }
    });
  }
}

/** @param {Position} position */
function classesOf({ kind, text, step }) {
  if (kind !== "token" && kind !== "blank") {
    return kind;
  }
  return `token ${color(step)}${kind === "blank" ? " blank" : ""}${text.includes("\n") ? " newline" : ""}`;
}
