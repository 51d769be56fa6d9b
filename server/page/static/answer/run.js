/** One sending: fills a lane or two, and draws what comes. */

import { ApiError, stream } from "../server/stream.js";

/** @typedef {import("./lane.js").Lane} Lane */

/** Between two reports, which screen readers speak. */
const REPORT_MS = 2000;

export class Run {
  /**
   * @param {Lane[]} lanes those that take part
   * @param {{key: string, onDraw: (now: number) => void, onReport: (message: string) => void}} page
   */
  constructor(lanes, { key, onDraw, onReport }) {
    this.lanes = lanes;
    this.key = key;
    this.onDraw = onDraw;
    this.onReport = onReport;
    this.controller = new AbortController();
    this.sent = performance.now();
    this.reported = this.sent;
  }

  stop() {
    this.controller.abort();
  }

  /**
   * Sends a body per lane and waits for the ends of all.
   *
   * @param {string} path
   * @param {object[]} bodies
   * @returns {Promise<{lane: Lane, error: ApiError} | null>} what failed first, if anything but the user ended it
   */
  async finish(path, bodies) {
    const stopDrawing = this.draw();
    const errors = await Promise.all(this.lanes.map((lane, i) => this.fill(lane, path, bodies[i])));
    stopDrawing();
    const at = errors.findIndex((error) => error !== null);
    return at < 0 ? null : { lane: this.lanes[at], error: errors[at] };
  }

  async fill({ recording }, path, body) {
    const { signal } = this.controller;
    try {
      for await (const chunk of stream(path, body, this.key, signal)) {
        recording.take(chunk, performance.now() - this.sent);
      }
      return null;
    } catch (error) {
      recording.elapsed = performance.now() - this.sent;
      recording.finish = signal.aborted ? "stopped" : "error";
      if (signal.aborted) {
        return null;
      }
      return error instanceof ApiError ? error : new ApiError(0, `The page failed: ${error.message}`);
    }
  }

  /** Draws once per picture of the screen, however many chunks came; returns what ends that. */
  draw() {
    const step = () => {
      const now = performance.now();
      this.onDraw(now - this.sent);
      if (now - this.reported >= REPORT_MS) {
        this.reported = now;
        this.onReport(progress(this.lanes));
      }
      request = requestAnimationFrame(step);
    };
    let request = requestAnimationFrame(step);
    return () => cancelAnimationFrame(request);
  }
}

function progress(lanes) {
  const counts = lanes.map(({ recording }) => {
    const { tokens, steps } = recording.view();
    return `${tokens} tokens in ${steps} steps`;
  });
  return `So far ${counts.join("; one token per forward: ")}.`;
}

/** What a run came to, for people. */
export function summary(lanes) {
  const [one, other] = lanes.map(({ recording }) => {
    const { tokens, at } = recording.view();
    return `${tokens} tokens in ${(at / 1000).toFixed(2)} s (${recording.finish})`;
  });
  if (other === undefined) {
    return `Done: ${one}.`;
  }
  const same = lanes[0].recording.text === lanes[1].recording.text;
  const stopped = lanes.some(({ recording }) => recording.finish === "stopped");
  const texts = stopped ? "" : same ? " Same text." : " The texts differ.";
  return `Done: ${one}; one token per forward: ${other}.${texts}`;
}
