/** A conversation: its turns, which of them is being edited, and what the model gets to see of it. */

/** @typedef {{question: string, answer: string, finish: string | null}} Turn finish is null while it runs */

export class Chat {
  /**
   * @param {{onEdit: (question: string) => void, onAgain: () => void, onNew: () => void}} told
   */
  constructor(told) {
    this.told = told;
    this.list = document.getElementById("turns");
    this.log = document.getElementById("log");
    this.template = document.getElementById("turn");
    this.notice = document.getElementById("editing");
    this.fresh = document.getElementById("new-chat");
    /** @type {Turn[]} */
    this.turns = [];
    /** @type {number | null} */
    this.editing = null;
    /** What there was before the turn that runs; null while none does. */
    this.before = null;
    this.fresh.addEventListener("click", () => {
      this.turns = [];
      this.edit(null);
      told.onNew();
    });
    this.notice.querySelector("button").addEventListener("click", () => {
      this.edit(null);
      told.onEdit("");
    });
  }

  /**
   * The messages of a request; turns that have no answer are left out.
   *
   * @param {string} question if it is empty, the last one is asked again
   */
  messages(question) {
    const asked = question === "" && this.turns.length > 0 ? this.turns.at(-1).question : question;
    const earlier = this.turns.slice(0, this.placeOf(question)).filter(({ answer }) => answer !== "");
    const said = earlier.flatMap((turn) => [message("user", turn.question), message("assistant", turn.answer)]);
    return [...said, message("user", asked)];
  }

  /** Where a question goes; the turns from there on go away. */
  placeOf(question) {
    if (this.editing !== null) {
      return this.editing;
    }
    return question === "" ? Math.max(0, this.turns.length - 1) : this.turns.length;
  }

  /** Begins the turn of a question, as `messages` has it. */
  begin(question) {
    const asked = this.messages(question).at(-1).content;
    this.before = { turns: this.turns, editing: this.editing };
    this.turns = [...this.turns.slice(0, this.placeOf(question)), { question: asked, answer: "", finish: null }];
    this.edit(null);
    this.log.scrollTop = this.log.scrollHeight;
  }

  /** Shows the answer so far. */
  grow(text) {
    const said = this.list.lastElementChild.querySelector(".answer .said");
    if (said.textContent !== text) {
      said.textContent = text;
      this.log.scrollTop = this.log.scrollHeight;
    }
  }

  /**
   * Ends the turn; one that failed without any text is taken back.
   *
   * @returns {string} the question, if it was taken back, and else nothing
   */
  end(text, finish) {
    const { question } = this.turns.at(-1);
    const failed = finish === "error" && text === "";
    if (failed) {
      ({ turns: this.turns, editing: this.editing } = this.before);
    } else {
      Object.assign(this.turns.at(-1), { answer: text, finish });
    }
    this.before = null;
    this.edit(this.editing);
    this.log.scrollTop = this.log.scrollHeight;
    return failed ? question : "";
  }

  /** @param {number | null} at the turn to edit */
  edit(at) {
    this.editing = at;
    this.notice.hidden = at === null;
    const last = at === this.turns.length - 1;
    const dropped = last ? "its answer will be replaced" : "its answer and all later turns will be replaced";
    this.notice.firstElementChild.textContent = at === null ? "" : `Editing turn ${at + 1}: ${dropped}.`;
    this.draw();
  }

  draw() {
    const running = this.before !== null;
    this.fresh.disabled = running || this.turns.length === 0;
    this.list.replaceChildren(...this.turns.map((turn, at) => this.drawTurn(turn, at, running)));
  }

  drawTurn({ question, answer, finish }, at, running) {
    const item = this.template.content.firstElementChild.cloneNode(true);
    const last = at === this.turns.length - 1;
    item.querySelector(".question .said").textContent = question;
    item.querySelector(".answer .said").textContent = answer;
    item.querySelector(".answer").dataset.finish = finish ?? "";
    item.classList.toggle("edited", at === this.editing);
    const [edit, again] = item.querySelectorAll("button");
    edit.setAttribute("aria-label", `Edit turn ${at + 1}`);
    edit.disabled = again.disabled = running;
    edit.addEventListener("click", () => {
      this.edit(at);
      this.told.onEdit(question);
    });
    again.hidden = !last;
    again.addEventListener("click", () => {
      this.edit(null);
      this.told.onAgain();
    });
    return item;
  }
}

function message(role, content) {
  return { role, content };
}
