/** The server's API key, if it wants one: kept by this tab alone. */

import { ApiError, ask, headersFor } from "./stream.js";

const NAME = "cdlm-key";

export class KeyForm {
  /**
   * @param {(model: string) => void} onModel told the model's id once the server has let us in
   * @param {(message: string) => void} onError
   */
  constructor(onModel, onError) {
    this.form = document.getElementById("key-form");
    this.field = document.getElementById("key");
    this.forget = document.getElementById("forget");
    this.refused = false;
    this.onModel = onModel;
    this.onError = onError;
    this.form.addEventListener("submit", (event) => {
      event.preventDefault();
      sessionStorage.setItem(NAME, this.field.value);
      this.field.value = "";
      this.enter();
    });
    this.forget.addEventListener("click", () => {
      this.drop();
      this.field.focus();
    });
  }

  /** @returns {string} empty when there is none */
  get key() {
    return sessionStorage.getItem(NAME) ?? "";
  }

  /** Whether requests to this server need a key. */
  get wanted() {
    return this.refused || this.key !== "";
  }

  /** Asks for the model's id, which tells whether the key is good. */
  async enter() {
    const reason = this.key ? "The server refused this key." : "This server wants an API key.";
    try {
      const response = await ask("v1/models", { headers: headersFor(this.key) });
      const { data } = await response.json();
      this.form.hidden = true;
      this.forget.hidden = this.key === "";
      this.onModel(data[0].id);
    } catch (error) {
      if (error instanceof ApiError && error.status === 401) {
        this.drop();
        this.onError(reason);
      } else {
        this.onError(error.message);
      }
    }
  }

  /** Forgets the key and asks for another. */
  drop() {
    sessionStorage.removeItem(NAME);
    this.refused = true;
    this.forget.hidden = true;
    this.form.hidden = false;
  }
}
