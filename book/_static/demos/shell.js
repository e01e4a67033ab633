// The shared shell of the demos: layout, controls, canvas, theme, keyboard, live text.
// A classic script without dependencies, so that a page works from file:// as well.
// A demo calls EBM.demo("name", (ui) => { ... }) and is placed by
// <div class="ebm-demo" data-demo="name">; see the functions of `ui` below.
(() => {
  "use strict";
  if (window.EBM) return;

  const COLORS = ["ink", "muted", "paper", "surface", "grid", "blue", "vermilion",
    "green", "purple", "orange", "sky"];
  const stillness = window.matchMedia("(prefers-reduced-motion: reduce)");
  let serial = 0;

  /** An element with attributes (functions become listeners) and children. */
  function el(tag, attributes = {}, ...children) {
    const made = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) {
      if (typeof value === "function") made.addEventListener(name, value);
      else if (value === true) made.setAttribute(name, "");
      else if (value !== false && value != null) made.setAttribute(name, value);
    }
    made.append(...children.filter((child) => child != null));
    return made;
  }

  /** A number in few digits, with a real minus sign. */
  function format(value, digits = 2) {
    if (!Number.isFinite(value)) return Number.isNaN(value) ? "–" : value > 0 ? "∞" : "−∞";
    if (Math.abs(value) >= 1e5) return value.toExponential(1).replace("e+", "e").replace(/^-/, "−");
    return value.toFixed(digits).replace(/^-/, "−").replace(/^−([0.]+)$/, "$1");
  }

  /** The tool box that a demo gets; every control takes an optional `parent`. */
  class UI {
    constructor(root) {
      this.root = root;
      this.body = root.appendChild(el("div", { class: "ebm-body" }));
      this.spoken = el("p", { class: "ebm-hidden", "aria-live": "polite" });
      this.redraws = new Set();
      this.readColors();
      new MutationObserver(() => this.themeChanged()).observe(
        document.documentElement, { attributeFilter: ["data-theme", "class"] });
    }

    /** Title and one sentence of instruction. */
    header(title, text) {
      this.root.setAttribute("role", "group");
      this.root.setAttribute("aria-label", `Demo: ${title}`);
      this.body.append(el("p", { class: "ebm-title" }, title), el("p", { class: "ebm-help" }, text));
      this.root.append(this.spoken);
    }

    /** A container; kind: "panels" (canvases), "controls" or "buttons". */
    group(kind, label, parent = this.body) {
      const made = el("div", { class: `ebm-${kind}`, role: label ? "group" : null, "aria-label": label });
      return parent.appendChild(made);
    }

    /** A sentence under or between other parts; returns the element. */
    note(text, parent = this.body) {
      return parent.appendChild(el("p", { class: "ebm-note" }, text));
    }

    /** A slider. scale "log" moves in equal factors. Returns { value, set, disable }. */
    slider({ label, min, max, step, value, scale = "linear", digits = 2, unit = "",
      show = (v) => format(v, digits) + unit, hint, onInput = () => {}, parent = this.body }) {
      const log = scale === "log";
      const inward = (v) => (log ? 1000 * Math.log(v / min) / Math.log(max / min) : v);
      const outward = (t) => (log ? min * (max / min) ** (t / 1000) : t);
      const input = el("input", {
        type: "range", min: log ? 0 : min, max: log ? 1000 : max, title: hint,
        step: log ? 10 : step ?? (max - min) / 100,
        input: () => { handle.value = outward(Number(input.value)); label_(); onInput(handle.value); },
      });
      const output = el("span", { class: "ebm-shown" }); // no <output>: the label is the input's
      const label_ = () => {
        output.textContent = show(handle.value);
        input.setAttribute("aria-valuetext", output.textContent);
      };
      const handle = {
        element: input, value,
        set(v) { handle.value = v; input.value = inward(v); label_(); },
        disable(off) { input.disabled = off; },
      };
      parent.append(el("label", { class: "ebm-slider" }, el("span", {}, label), output, input));
      handle.set(value);
      return handle;
    }

    /** A button; with `pressed` (a boolean) it is a toggle button. */
    button({ label, onPress, pressed, hint, parent = this.body }) {
      const made = el("button", {
        type: "button", class: "ebm-button", title: hint,
        "aria-pressed": pressed == null ? null : String(pressed),
        click: () => {
          const state = made.getAttribute("aria-pressed");
          if (state != null) made.setAttribute("aria-pressed", String(state !== "true"));
          onPress(state !== "true");
        },
      }, label);
      return parent.appendChild(made);
    }

    /** A drop-down list of [value, text] pairs. Returns { value, set }. */
    select({ label, options, value, onChange, parent = this.body }) {
      const list = el("select", { change: () => { handle.value = list.value; onChange(list.value); } },
        ...options.map(([v, text]) => el("option", { value: v, selected: v === value }, text)));
      const handle = { element: list, value, set(v) { handle.value = list.value = v; } };
      parent.append(el("label", { class: "ebm-select" }, el("span", {}, label), list));
      return handle;
    }

    /** A check box. Returns { value, set }. */
    toggle({ label, value = false, onChange, parent = this.body }) {
      const box = el("input", {
        type: "checkbox",
        change: () => { handle.value = box.checked; onChange(box.checked); },
      });
      const handle = { element: box, value, set(v) { handle.value = box.checked = v; } };
      box.checked = value;
      parent.append(el("label", { class: "ebm-toggle" }, box, el("span", {}, label)));
      return handle;
    }

    /** A file of the reader's own. It stays on the device: no demo sends anything. */
    file({ label, accept = "image/*", onFile, parent = this.body }) {
      const input = el("input", {
        type: "file", accept, class: "ebm-hidden",
        change: () => { if (input.files[0]) onFile(input.files[0]); input.value = ""; },
      });
      parent.append(el("label", { class: "ebm-button ebm-file" }, label, input));
      return input;
    }

    /** Figures with names: readouts({ z: "Z" }) -> set("z", "1.23"); null hides one. */
    readouts(names, parent = this.body) {
      const box = parent.appendChild(el("div", { class: "ebm-readouts" }));
      const values = {};
      for (const [key, name] of Object.entries(names)) {
        values[key] = el("span", { class: "ebm-value" });
        box.append(el("div", { class: "ebm-readout", "data-key": key },
          el("span", { class: "ebm-name" }, name), values[key]));
      }
      return (key, text) => {
        values[key].parentElement.hidden = text === null;
        if (values[key].textContent !== text) values[key].textContent = text ?? "";
      };
    }

    /** Tell a screen reader, once the reader's hand rests (0.7 s). */
    say(text) {
      clearTimeout(this.speaking);
      this.speaking = setTimeout(() => { this.spoken.textContent = text; }, 700);
    }

    /** A canvas as wide as its panel. draw(g, width, height) is in CSS pixels and runs
     * on resize, theme change and redraw(), or at once by paint(). Pointer: down/move/
     * up(x, y, event); give grab(x, y) -> boolean to let a finger scroll the page where
     * there is nothing to hold. keys(key, event) -> true when it was used; `help` names
     * the keys. */
    canvas({ label, caption, aspect = 1, draw, down, move, up, hover, grab, keys, help, parent = this.body }) {
      const id = `ebm-${++serial}`;
      const surface = el("canvas", {
        role: keys ? "application" : "img", "aria-label": label, tabindex: keys ? 0 : null,
        "aria-describedby": help ? id : null,
      });
      surface.style.aspectRatio = String(aspect);
      const g = surface.getContext("2d");
      let width = 0, height = 0, asked = 0, held = false;
      const paint = () => {
        asked = 0;
        const ratio = window.devicePixelRatio || 1;
        [width, height] = [surface.clientWidth, surface.clientHeight];
        if (!width || !height) return;
        const [w, h] = [Math.round(width * ratio), Math.round(height * ratio)];
        if (surface.width !== w || surface.height !== h) [surface.width, surface.height] = [w, h];
        g.setTransform(w / width, 0, 0, h / height, 0, 0);
        g.clearRect(0, 0, width, height);
        draw(g, width, height);
      };
      const redraw = () => { asked = asked || requestAnimationFrame(paint); };
      const at = (event) => {
        const box = surface.getBoundingClientRect();
        return [event.clientX - box.left, event.clientY - box.top];
      };
      if (down) {
        surface.style.cursor = "crosshair";
        if (!grab) surface.style.touchAction = "none";
        else surface.addEventListener("touchstart", (event) => {
          if (event.cancelable && grab(...at(event.touches[0]))) event.preventDefault();
        }, { passive: false });
        surface.addEventListener("pointerdown", (event) => {
          if (event.button !== 0 || (grab && !grab(...at(event)))) return;
          held = true;
          surface.setPointerCapture(event.pointerId);
          down(...at(event), event);
        });
        surface.addEventListener("pointermove", (event) => {
          if (held && move) move(...at(event), event);
          else if (!held && hover) hover(...at(event), event);
        });
        const end = (event) => { if (held) { held = false; if (up) up(...at(event), event); } };
        for (const name of ["pointerup", "pointercancel"]) surface.addEventListener(name, end);
      }
      if (keys) surface.addEventListener("keydown", (event) => {
        if (!event.ctrlKey && !event.metaKey && !event.altKey && keys(event.key, event)) event.preventDefault();
      });
      parent.append(el("div", { class: "ebm-panel" },
        caption ? el("p", { class: "ebm-caption" }, caption) : null, surface,
        help ? el("p", { class: "ebm-note", id }, help) : null));
      new ResizeObserver(redraw).observe(surface);
      this.redraws.add(redraw);
      return {
        element: surface, redraw, paint, at,
        get width() { return width; }, get height() { return height; },
        describe(text) { surface.setAttribute("aria-label", `${label}. ${text}`); },
      };
    }

    /** step(seconds) at every frame while running, in view and in the front tab. A
     * reader who asked for less motion starts it by hand. */
    loop(step) {
      let seen = true, last = 0, frame = 0;
      const tick = (now) => {
        frame = 0;
        const seconds = Math.min((now - last) / 1000, 0.1);
        last = now;
        if (seen) step(seconds);
        wake();
      };
      const wake = () => {
        if (handle.running && seen && !document.hidden && !frame) frame = requestAnimationFrame(tick);
      };
      const handle = {
        running: false,
        start() { handle.running = true; last = performance.now(); wake(); },
        stop() { handle.running = false; },
      };
      new IntersectionObserver((entries) => { seen = entries.at(-1).isIntersecting; wake(); }).observe(this.root);
      document.addEventListener("visibilitychange", wake);
      return handle;
    }

    /** A Pause/Play button for a loop; starts it unless the reader wants stillness. */
    play(loop, { parent = this.body, autostart = true, onChange = () => {} } = {}) {
      const show = () => { made.textContent = loop.running ? "Pause" : "Play"; onChange(loop.running); };
      const made = this.button({ label: "Play", parent, onPress: () => {
        if (loop.running) loop.stop(); else loop.start();
        show();
      } });
      made.classList.add("ebm-play");
      if (autostart && !this.still) loop.start();
      show();
      return { element: made, pause() { loop.stop(); show(); }, start() { loop.start(); show(); } };
    }

    /** Whether the reader asked for less motion. */
    get still() { return stillness.matches; }

    /** Redraw every canvas of the demo. */
    redraw() { this.redraws.forEach((redraw) => redraw()); }

    /** Colors of the current theme: ui.colors.ink, .paper, .blue, ... */
    readColors() {
      const style = getComputedStyle(this.root);
      const color = (name) => style.getPropertyValue(`--ebm-${name}`).trim() || "gray";
      this.colors = Object.fromEntries(COLORS.map((name) => [name, color(name)]));
      this.dark = document.documentElement.dataset.theme === "dark";
      window.EBM.font = style.fontFamily || "sans-serif"; // canvases write like the page
    }

    themeChanged() { this.readColors(); this.redraw(); }

    /** What tests and the curious may look at: element.ebm. */
    expose(state) { this.root.ebm = state; }
  }

  /** Build a demo in every place that asks for it. */
  function demo(name, build) {
    const mount = () => document.querySelectorAll(`.ebm-demo[data-demo="${name}"]`).forEach((root) => {
      if (root.dataset.ready) return;
      root.dataset.ready = "true";
      const ui = new UI(root);
      try { build(ui); } catch (error) {
        console.error(error);
        ui.note("This demo could not start in this browser. A current one will show it.");
      }
    });
    if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", mount);
    else mount();
  }

  window.EBM = { demo, el, format };
})();
