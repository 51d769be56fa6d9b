/** The controls of a request, as text by their names; a box that is ticked is "1", and one that is not is "". */

/** Stops of the slider; the first leaves the threshold to the model. */
const THRESHOLDS = ["", 0.5, 0.7, 0.8, 0.85, 0.9, 0.95, 0.98, 0.99, 0.995, 0.998, 0.999, 0.9999, 1];

/** Names of the controls that a request depends on. */
const REQUEST = ["endpoint", "prompt", "suffix", "schema", "race", "tau", "steps", "max-tokens", "temperature", "seed"];

export class Controls {
  /**
   * @param {HTMLFormElement} form
   * @param {() => void} onChange called after every change, whoever made it
   */
  constructor(form, onChange) {
    this.form = form;
    this.onChange = onChange;
    this.slider = document.getElementById("tau-slide");
    this.slider.max = String(THRESHOLDS.length - 1);
    this.defaults = this.values();
    this.slider.addEventListener("input", () => {
      this.write({ tau: String(THRESHOLDS[this.slider.valueAsNumber]) });
      // As if it had been typed.
      form.elements.tau.dispatchEvent(new Event("input", { bubbles: true }));
    });
    document.addEventListener("input", (event) => event.target.form === form && this.changed());
  }

  /** @returns {Record<string, string>} */
  values(names = REQUEST) {
    return Object.fromEntries(names.map((name) => [name, this.read(name)]));
  }

  /** @returns {HTMLInputElement | HTMLTextAreaElement | RadioNodeList | null} */
  control(name) {
    return this.form.elements.namedItem(name);
  }

  read(name) {
    const control = this.control(name);
    return control.type === "checkbox" ? (control.checked ? "1" : "") : control.value;
  }

  /** @param {Record<string, string>} values */
  write(values) {
    for (const [name, value] of Object.entries(values)) {
      const control = this.control(name);
      if (control.type === "checkbox") {
        control.checked = value === "1";
      } else {
        control.value = value;
      }
    }
    this.changed();
  }

  /** Whether a control is there and can have this value. */
  takes(name, value) {
    const control = this.control(name);
    if (control === null || typeof value !== "string") {
      return false;
    }
    if (control.type === "checkbox") {
      return value === "1" || value === "";
    }
    if (control instanceof RadioNodeList) {
      return [...control].some((one) => one.value === value);
    }
    const probe = control.cloneNode();
    probe.value = value;
    return probe.value === value && probe.validity.valid;
  }

  /** Tells the user what is wrong with a control, if anything is; returns whether all is well. */
  check() {
    const { schema } = this.form.elements;
    schema.setCustomValidity(isSchema(schema.value) ? "" : "This is not a JSON schema.");
    return this.form.reportValidity();
  }

  changed() {
    const { tau } = this.form.elements;
    const next = THRESHOLDS.findIndex((stop) => stop !== "" && stop >= tau.valueAsNumber);
    this.slider.value = tau.value === "" ? "0" : String(next < 0 ? THRESHOLDS.length - 1 : next);
    this.slider.setAttribute("aria-valuetext", tau.value || "the model's own");
    this.onChange();
  }
}

function isSchema(text) {
  if (text.trim() === "") {
    return true;
  }
  try {
    const schema = JSON.parse(text);
    return typeof schema === "boolean" || (typeof schema === "object" && schema !== null && !Array.isArray(schema));
  } catch {
    return false;
  }
}
