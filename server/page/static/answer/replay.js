/** The slider over the recorded steps, and the button that walks along it. */

const STEPS_PER_SECOND = 8;

export class Replay {
  /** @param {(count: number) => void} onShow told how many steps to show */
  constructor(onShow) {
    this.slider = document.getElementById("replay");
    this.button = document.getElementById("play");
    this.label = document.getElementById("replay-at");
    this.onShow = onShow;
    this.timer = null;
    this.slider.addEventListener("input", () => {
      this.pause();
      this.show(this.slider.valueAsNumber);
    });
    this.button.addEventListener("click", () => (this.timer === null ? this.play() : this.pause()));
  }

  /**
   * Follows a run: at its last step, and only to be moved once it has ended.
   *
   * @param {number} count steps so far
   * @param {boolean} running
   */
  follow(count, running) {
    this.pause();
    this.slider.max = String(count);
    this.slider.value = String(count);
    this.slider.disabled = this.button.disabled = running || count === 0;
    this.tell(count);
  }

  play() {
    const start = this.slider.value === this.slider.max ? 0 : this.slider.valueAsNumber;
    this.show(start);
    this.button.textContent = "Pause";
    this.timer = setInterval(() => {
      this.show(this.slider.valueAsNumber + 1);
      if (this.slider.value === this.slider.max) {
        this.pause();
      }
    }, 1000 / STEPS_PER_SECOND);
  }

  pause() {
    clearInterval(this.timer);
    this.timer = null;
    this.button.textContent = "Play";
  }

  show(count) {
    this.slider.value = String(count);
    this.tell(count);
    this.onShow(count);
  }

  tell(count) {
    const text = this.slider.max === "0" ? "No steps recorded yet." : `After step ${count} of ${this.slider.max}.`;
    this.label.textContent = text;
    this.slider.setAttribute("aria-valuetext", text);
  }
}
