/** What came of one request: every canvas it showed, to be looked at again. */

import { settle } from "./settle.js";

/**
 * A block after a denoise step, as a stream with `diffusing` shows it: null where nothing is finalized.
 * @typedef {{block: number, step: number, tokens: (string | null)[], steps: (number | null)[], final: boolean}} Canvas
 *
 * The canvas of one step, the text that was certain then, the usage so far, and milliseconds since sending.
 * @typedef {{canvas: Canvas, text: string, usage: object | null, at: number}} Frame
 *
 * How a position is to be drawn. A position whose text another one shows is joined.
 * @typedef {{kind: "masked" | "unused" | "token" | "blank" | "joined", text: string, step: number | null}} Position
 *
 * What there was after some steps: `blocks` has the positions of each. `tokens` is the server's count of a complete
 * answer, and before that what the canvas shows, tokens without text left out.
 * @typedef {{blocks: Position[][], tokens: number, steps: number, usage: object | null, at: number,
 *            ended: boolean}} View
 */

export class Recording {
  constructor() {
    /** @type {Frame[]} */
    this.frames = [];
    this.text = "";
    this.usage = null;
    /** The API's reason, or "stopped", or "error"; null while it runs. */
    this.finish = null;
    this.elapsed = 0;
  }

  /**
   * Takes a chunk of a completion or of a chat.
   *
   * @param {object} chunk
   * @param {number} at milliseconds since sending
   */
  take(chunk, at) {
    this.elapsed = at;
    this.usage = chunk.usage ?? this.usage;
    const choice = chunk.choices[0];
    if (choice === undefined) {
      return;
    }
    this.text += choice.text ?? choice.delta?.content ?? "";
    this.finish = choice.finish_reason ?? this.finish;
    if (choice.diffusing) {
      this.frames.push({ canvas: choice.diffusing, text: this.text, usage: this.usage, at });
    }
  }

  /**
   * What there was after the first `count` steps.
   *
   * @param {number} count
   * @returns {View}
   */
  view(count = this.frames.length) {
    const shown = this.frames.slice(0, count);
    const last = shown.at(-1);
    const ended = this.finish !== null && count >= this.frames.length;
    /** @type {Canvas[]} */
    const canvases = [];
    for (const { canvas } of shown) {
      canvases[canvas.block] = canvas;
    }
    const whole = ended && this.finish !== "stopped" && this.finish !== "error";
    const blocks = positions(canvases.filter(Boolean), ended ? this.text : last?.text ?? "", whole);
    const seen = blocks.flat().filter(({ kind }) => kind === "token" || kind === "joined").length;
    return {
      blocks,
      tokens: whole ? this.usage?.completion_tokens ?? seen : seen,
      steps: shown.length,
      usage: ended ? this.usage : last?.usage ?? null,
      at: ended ? this.elapsed : last?.at ?? 0,
      ended,
    };
  }
}

/**
 * @param {Canvas[]} canvases the latest of each block
 * @param {string} text of the blocks that are finished
 * @param {boolean} whole whether the answer is complete: what is masked then was never needed
 * @returns {Position[][]}
 */
function positions(canvases, text, whole) {
  // The text of a block comes with its last step, and a position that it did not need stays masked.
  const finished = canvases.filter(
    (canvas, i) => whole || i < canvases.length - 1 || (canvas.final && !canvas.tokens.includes(null)),
  );
  const texts = settle(finished.flatMap((canvas) => canvas.tokens), text);
  let place = 0;
  return canvases.map((canvas, i) =>
    canvas.tokens.map((token, j) => {
      const settled = i < finished.length ? texts[place++] : token;
      const step = canvas.steps[j];
      if (token === null) {
        return { kind: i < finished.length ? "unused" : "masked", text: "", step: null };
      }
      if (settled === undefined) {
        return { kind: "joined", text: "", step };
      }
      return { kind: settled === "" ? "blank" : "token", text: settled, step };
    }),
  );
}
