/** The server's API key, if it wants one: kept by this tab alone. */

import { ApiError, ask, headersFor } from "./stream.js";

const NAME = "cdlm-key";

/** Between two looks at a model that loads. */
const LOADING_MS = 1000;

/** @typedef {{id: string, max_model_len: number, block_length: number}} Model as the API lists it */

export class KeyForm {
  /**
   * @param {(model: Model) => void} onModel told of the model once the server has let us in and the model is loaded
   * @param {() => void} onLoading told each time the model is found to be loading
   * @param {(message: string) => void} onError
   */
  constructor(onModel, onLoading, onError) {
    this.form = document.getElementById("key-form");
    this.field = document.getElementById("key");
    this.forget = document.getElementById("forget");
    this.refused = false;
    this.onModel = onModel;
    this.onLoading = onLoading;
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

  /** Asks for the model, which tells whether the key is good; again while it loads. */
  async enter() {
    const reason = this.key ? "The server refused this key." : "This server wants an API key.";
    try {
      const response = await ask("v1/models", { headers: headersFor(this.key) });
      const { data } = await response.json();
      this.form.hidden = true;
      this.forget.hidden = this.key === "";
      if (data[0].block_length === null) {
        this.onLoading();
        setTimeout(() => this.enter(), LOADING_MS);
      } else {
        this.onModel(data[0]);
      }
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
