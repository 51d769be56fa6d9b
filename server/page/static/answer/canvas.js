/**
 * Draws the blocks of an answer, each token in the color of the denoise step that finalized it.
 *
 * A model without blocks has one step each; there the color says how many tokens a forward decided together.
 */

/** @typedef {import("./recording.js").Position} Position */

/** The last step of its block that has each of the eight colors; docs/streaming.md says how steps count. */
const LAST_STEPS = [1, 2, 3, 4, 6, 10, 20, Infinity];

/** @param {number} step from 1 on */
function color(step) {
  return `step-${1 + LAST_STEPS.findIndex((last) => step <= last)}`;
}

/**
 * @param {boolean} blocks whether the model has blocks
 * @returns {HTMLLIElement[]} what the colors and marks mean
 */
export function legend(blocks) {
  const entries = LAST_STEPS.map((last, i) => {
    const first = i === 0 ? 1 : LAST_STEPS[i - 1] + 1;
    const range = first === last ? `${first}` : last === Infinity ? `${first}+` : `${first}\u2013${last}`;
    const meaning = blocks ? "denoise step" : "tokens of a forward";
    return entry(`swatch ${color(first)}`, range, i === 0 ? meaning : "");
  });
  const blank = { blank: "without text, such as the end" };
  const marks = blocks ? { masked: "masked", ...blank, unused: "not needed" } : blank;
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
    /** Whether the model has blocks. */
    this.blocks = true;
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
    while (block.children.length > positions.length) {
      block.lastElementChild.remove();
      this.drawn[i].pop();
    }
    const level = this.blocks ? null : positions.filter(({ kind }) => kind !== "unused").length;
    positions.forEach((position, j) => {
      const state = `${position.kind} ${position.step} ${level} ${position.text}`;
      if (this.drawn[i][j] === state) {
        return;
      }
      this.drawn[i][j] = state;
      const mark = block.children[j] ?? block.appendChild(document.createElement("span"));
      mark.className = classesOf(position, level ?? position.step);
      mark.textContent = position.text;
      if (position.step === null) {
        delete mark.dataset.step;
        mark.removeAttribute("title");
      } else {
        mark.dataset.step = String(level === null ? position.step : i + 1);
        mark.title = level === null ? `step ${position.step}` : `forward ${i + 1}, which decided ${level}`;
      }
    });
  }
}

/**
 * @param {Position} position
 * @param {number} level what its color stands for
 */
function classesOf({ kind, text }, level) {
  if (kind !== "token" && kind !== "blank") {
    return kind;
  }
  return `token ${color(level)}${kind === "blank" ? " blank" : ""}${text.includes("\n") ? " newline" : ""}`;
}
