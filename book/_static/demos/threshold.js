// The demo "Choose a threshold" (chapters 8 and 11): the scores of a saved run, and what a
// threshold on them means, for whole images and for the pixels of the maps.
EBM.demo("threshold", (ui) => {
  "use strict";
  const M = ThresholdMath, RUN = THRESHOLD_RUN, MAPS = RUN.maps, { format, el } = EBM, log = Math.log10;
  const labels = RUN.kind.map((k) => k > 0); // kind 0 is "good"
  const normals = RUN.scores.filter((_, i) => !labels[i]);
  const defectives = RUN.scores.filter((_, i) => labels[i]);
  const order = RUN.scores.map((_, i) => i).sort((i, j) => RUN.scores[i] - RUN.scores[j]);
  // Scores are spread over two orders of magnitude: their axis is logarithmic.
  const low = Math.max(Math.min(...RUN.scores), 0.01) * 0.95, high = Math.max(...RUN.scores) * 1.05;
  const edges = Array.from({ length: 33 }, (_, i) => low * (high / low) ** (i / 32));
  const regions = MAPS.regions.map((pairs) => M.dense(pairs, MAPS.edges.length));
  const pro = M.proCurve(MAPS.normal, regions);
  const promised = (rate) => M.conformalThreshold(RUN.held_out, rate);
  const own = promised(0.05);
  const state = {
    mode: "images", threshold: own, before: own, now: null,
    bin: pro.bins[pro.fpr.findIndex((f) => f > 0.02)], parts: 2000, defective: 0.02,
  };
  const run = {
    RUN, MAPS, labels, low, high, edges, regions, pro, share: defectives.length / labels.length,
    bars: { normal: M.histogram(normals, edges), defective: M.histogram(defectives, edges) },
    roc: M.rocCurve(RUN.scores, labels), pr: M.prCurve(RUN.scores, labels), auPro: M.auPro(pro),
    /** The point of the PRO curve whose lowest flagged bin is the chosen one. */
    proPoint: () => pro.bins.indexOf(state.bin),
    /** Images between the threshold before this move and the one now. */
    changed: () => order.filter((i) => (RUN.scores[i] >= state.before) !== (RUN.scores[i] >= state.threshold)),
    /** The six images just below the threshold and the six just above. */
    nearest() {
      const cut = order.findIndex((i) => RUN.scores[i] >= state.threshold);
      const middle = cut < 0 ? order.length : cut;
      const first = Math.min(Math.max(middle - 6, 0), order.length - 12);
      return order.slice(first, first + 12);
    },
  };
  const view = thresholdView(ui, state, run);
  const percent = (share, digits = 1) => (Number.isNaN(share) ? "–" : `${format(100 * share, digits)} %`);

  // --- Choosing ----------------------------------------------------------------------------

  function update() {
    state.now = M.confusion(RUN.scores, labels, state.threshold);
    const { tp, fp, fn, tn, fpr, recall, precision } = state.now, p = run.proPoint();
    const line = M.shift(state.now, state.parts, state.defective);
    [tp, fn, fp, tn].forEach((n, k) => { cells[k].textContent = String(n); });
    show("fpr", percent(fpr));
    show("recall", percent(recall));
    show("precision", percent(precision));
    show("alarms", format(line.falseAlarms, 0));
    show("missed", format(line.missed, 1));
    show("real", percent(line.precision));
    showMap("fpr", percent(pro.fpr[p], 2));
    showMap("pro", percent(pro.pro[p]));
    showMap("recall", percent(pro.recall[p]));
    showMap("area", format(run.auPro, 3));
    ui.redraw();
    ui.say(summary());
  }

  function summary() {
    if (state.mode === "maps") {
      const p = run.proPoint();
      return `Map threshold ${format(MAPS.edges[state.bin])}: ${percent(pro.fpr[p], 2)} of the normal pixels `
        + `are flagged, per-region overlap ${percent(pro.pro[p])}.`;
    }
    const { tp, fp, fn } = state.now;
    return `Threshold ${format(state.threshold)}: ${tp} defects found, ${fn} missed, ${fp} false alarms. `
      + `${run.changed().length} images changed side.`;
  }

  const remember = () => { state.before = state.threshold; };

  function setThreshold(t) {
    state.threshold = Math.min(Math.max(t, low), high);
    slider.set(log(state.threshold));
    update();
  }

  function setBin(bin) {
    state.bin = Math.min(Math.max(Math.round(bin), 0), MAPS.edges.length - 1);
    mapSlider.set(state.bin);
    update();
  }

  function dragTo(px) {
    if (state.mode === "maps") setBin(view.valueAt(px)); else setThreshold(10 ** view.valueAt(px));
  }

  /** The threshold with the highest balanced accuracy on the test set: self-deception. */
  function bestOnTest() {
    const gain = run.roc.recall.map((r, k) => r - run.roc.fpr[k]);
    return run.roc.thresholds[gain.indexOf(Math.max(...gain))];
  }

  // --- The page ----------------------------------------------------------------------------

  ui.header("Choose a threshold", `Drag the line. ${normals.length} normal and ${defectives.length} defective test `
    + "images were scored by a small detector; every choice trades false alarms against missed defects.");
  const top = ui.group("controls", "View");
  ui.select({ label: "Threshold on", parent: top, value: "images", onChange: setMode,
    options: [["images", "image scores"], ["maps", "pixels of the maps"]] });
  const slider = ui.slider({ label: "Threshold", min: log(low), max: log(high), step: 0.002,
    value: log(own), parent: top, show: (v) => format(10 ** v),
    onInput: (v) => { state.threshold = 10 ** v; update(); } });
  const mapSlider = ui.slider({ label: "Map threshold", min: 0, max: MAPS.edges.length - 1, step: 1, value: state.bin,
    parent: top, show: (k) => format(MAPS.edges[Math.round(k)]), onInput: setBin });
  for (const name of ["pointerdown", "focus"]) slider.element.addEventListener(name, remember);

  const panels = ui.group("panels"), chart = { parent: panels, aspect: 1.25 };
  const scores = ui.canvas({ ...chart, label: "Distribution of the scores with the threshold", caption: "Scores",
    draw: view.scores, down: (x) => { remember(); dragTo(x); }, move: dragTo });
  scores.element.style.touchAction = "pan-y"; // a finger moves the line sideways, the page up and down
  ui.canvas({ ...chart, label: "ROC or PRO curve with the chosen point", caption: "What is caught, at what price",
    draw: view.curve });
  const second = ui.canvas({ ...chart, label: "Precision and recall, or the share of every defect", caption: " ",
    draw: view.second });
  const cells = [0, 1, 2, 3].map(() => el("td"));
  const row = (name, ...found) => el("tr", {}, el("th", { scope: "row" }, name), ...found);
  const head = ["flagged", "passed"].map((name) => el("th", { scope: "col" }, name));
  const table = panels.appendChild(el("table", { class: "ebm-table" }, el("caption", {}, "Confusion on the test set"),
    el("thead", {}, el("tr", {}, el("td"), ...head)),
    el("tbody", {}, row("defective", cells[0], cells[1]), row("normal", cells[2], cells[3]))));
  const forMaps = ui.group("column", "The map threshold", panels);
  const showMap = ui.readouts({ fpr: "normal pixels flagged", pro: "per-region overlap (PRO)",
    recall: "defective pixels flagged", area: "AU-PRO (limit 0.3)" }, forMaps);

  const presets = ui.group("buttons", "Thresholds");
  const preset = (label, value) => ui.button({ label, parent: presets,
    onPress: () => { remember(); setThreshold(value()); } });
  preset("5 % promised by held-out normals", () => own);
  preset("1 %", () => promised(0.01));
  preset("Best on the test set (do not!)", bestOnTest);
  const stripNote = ui.note("");
  const strip = ui.canvas({ label: "Test images around the threshold", aspect: 10,
    draw: (g, w) => view.strip(g, w, strip.element) });

  const line = ui.group("column", "The production line");
  const show = ui.readouts({ fpr: "false alarm rate", recall: "recall", precision: "precision here",
    alarms: "false alarms per shift", missed: "missed per shift", real: "of the flagged, defective" }, line);
  const shift = ui.group("controls", "The shift", line);
  ui.slider({ label: "Parts per shift", min: 100, max: 20000, scale: "log", digits: 0, value: state.parts,
    parent: shift, onInput: (v) => { state.parts = v; update(); } });
  ui.slider({ label: "Defective parts", min: 0.001, max: 0.5, scale: "log", value: state.defective, parent: shift,
    show: (v) => percent(v), onInput: (v) => { state.defective = v; update(); } });

  function setMode(mode) {
    const maps = mode === "maps";
    state.mode = mode;
    for (const part of [presets, table, line, slider.element.parentElement]) part.hidden = maps;
    for (const part of [forMaps, mapSlider.element.parentElement]) part.hidden = !maps;
    second.element.previousSibling.textContent =
      maps ? "How much of each defect is found" : "How far a flag can be trusted";
    stripNote.textContent = maps ? "Flagged pixels in orange, outline of the true defect in white:"
      : "Around the threshold, by rising score. Blue frame: passed. Orange: flagged. "
        + "Thick: just changed side. ✗: wrong.";
    update();
  }

  setMode("images");
  ui.expose({ state, setThreshold, setBin, changed: run.changed, roc: run.roc, pro });
});
