// The demo "Watch it train" (chapters 4 and 7): a healthy and a diverging run of contrastive
// divergence, replayed from saved checkpoints, side by side with their vital signs.
EBM.demo("watch", (ui) => {
  "use strict";
  const { format, bytes } = EBM;
  const SIDES = { healthy: "A healthy run", diverging: "A diverging run" };
  const SPEED = 4; // checkpoints a second
  const state = { run: "points", place: 0, same: false, data: true };
  const run = () => WATCH_RUNS[state.run];
  const last = () => run().steps / run().every;
  const checkpoint = () => Math.round(state.place);
  const step = () => checkpoint() * run().every;
  const pictures = {}; // "points healthy 3" -> small canvas of the energy
  const sheets = {}, points = {};

  for (const side of Object.keys(SIDES)) {
    sheets[side] = picture(WATCH_RUNS.images[side].samples.url);
    points[side] = bytes(WATCH_RUNS.points[side].points);
  }
  sheets.data = picture(WATCH_RUNS.images.data.url);
  points.data = bytes(WATCH_RUNS.points.data);

  function picture(url) {
    return Object.assign(new Image(), { onload: () => ui.redraw(), src: url });
  }

  // --- Numbers -------------------------------------------------------------------------

  /** A figure of the log at the chosen step; before the first update there is none. */
  const figure = (side, name) => (step() ? run()[side].log[name][step() - 1] : NaN);

  function update() {
    ui.redraw();
    scrub.set(checkpoint());
    for (const side of Object.keys(SIDES)) {
      for (const name of ["data", "chain", "gap", "ratio"]) readouts[side](name, format(figure(side, name)));
      const { distance } = run()[side];
      readouts[side]("apart", distance ? `${format(100 * distance[checkpoint()], 0)} %` : null);
    }
    ui.say(summary());
  }

  function summary() {
    if (!step()) return "Before the first update.";
    const told = Object.keys(SIDES).map((side) => `${SIDES[side]}: energy of data ${format(figure(side, "data"))}, `
      + `gap ${format(figure(side, "gap"))}, drift to noise ${format(figure(side, "ratio"))}.`);
    return `Step ${step()}. ${told.join(" ")}`;
  }

  /** Lowest and highest finite value of the named figures, with a margin. */
  function range(sides, names) {
    const values = sides.flatMap((side) => names.flatMap((name) => run()[side].log[name])).filter(Number.isFinite);
    const low = Math.min(...values), high = Math.max(...values), margin = 0.06 * (high - low || 1);
    return [low - margin, high + margin];
  }

  // --- Pictures ------------------------------------------------------------------------

  function drawSamples(side, g, w, h) {
    if (state.run === "points") drawPoints(side, g, w); else drawImages(side, g, w, h);
  }

  function drawPoints(side, g, w) {
    const { cells, chains, half } = run(), k = checkpoint(), name = `${side} ${k}`;
    if (!pictures[name]) {
      const levels = bytes(run()[side].levels).subarray(k * cells * cells, (k + 1) * cells * cells);
      pictures[name] = EBM.picture(levels, cells, cells, (v) => EBM.heat(0.97 * (1 - v / 255)));
    }
    const rim = 0.03 * w; // points on the border of the square stay in sight
    g.drawImage(pictures[name], rim, rim, w - 2 * rim, w - 2 * rim);
    const s = EBM.square(half * w / (w - 2 * rim), w), all = points[side], from = 2 * chains * k;
    const place = (v) => (v / 255 * 2 - 1) * half;
    const pick = (array, start, odd) => Array.from({ length: chains }, (_, i) => place(array[start + 2 * i + odd]));
    const green = { radius: 1.6, fill: "#3fcfa3", rim: "#00463a" };
    if (state.data) EBM.points(g, s, pick(points.data, 0, 0), pick(points.data, 0, 1), green);
    EBM.points(g, s, pick(all, from, 0), pick(all, from, 1));
  }

  function drawImages(side, g, w) {
    const { side: s } = run().data, cell = (w - 6) / 4;
    const label = (words, y) => EBM.text(g, words, 0, y, { color: ui.colors.ink });
    g.imageSmoothingEnabled = false;
    const put = (sheet, column, row, i, y) => {
      const [left, top] = [cell * (i % 4) + 1, y + cell * Math.floor(i / 4)];
      if (sheet.complete) g.drawImage(sheet, s * column, s * row, s, s, left, top, cell - 2, cell - 2);
    };
    label("normal images", 12);
    for (let i = 0; i < 4; i++) put(sheets.data, i, 0, i, 18);
    label("eight Langevin chains", cell + 32);
    for (let i = 0; i < 8; i++) put(sheets[side], i, checkpoint(), i, cell + 38);
  }

  function drawVitals(side, g, w, h) {
    const { colors } = ui, sides = state.same ? Object.keys(SIDES) : [side], part = h / 3, narrow = w < 240;
    const steps = Array.from({ length: run().steps }, (_, i) => i + 1), log = run()[side].log;
    const plot = (row, yLabel, y, curves, more = {}) => {
      const box = [46, row * part + 22, w - 64, part - (row === 2 ? 58 : 42)];
      const xLabel = row === 2 ? "training step" : "";
      const axis = EBM.axes(g, colors, { x: [0, run().steps], y, yLabel, xLabel, box, ...more });
      for (const [name, color, dash] of curves) EBM.line(g, axis, steps, log[name], { color, dash, width: 1.8 });
      g.fillStyle = colors.ink;
      g.fillRect(axis.X(step()) - 1, axis.top, 2, axis.height);
      return axis;
    };
    const energy = plot(0, narrow ? "" : "energy", range(sides, ["data", "chain"]),
      [["data", colors.blue, []], ["chain", colors.vermilion, [5, 3]]]);
    const names = [["data", colors.blue], ["chains", colors.vermilion, [5, 3]]];
    EBM.legend(g, colors, names, narrow ? 2 : energy.right - 140, 9);
    const gap = plot(1, "gap E(data) − E(chains)", range(sides, ["gap"]), [["gap", colors.green, []]]);
    EBM.line(g, gap, [0, run().steps], [0, 0], { color: colors.muted, width: 1, dash: [3, 3] });
    const ratios = sides.flatMap((name) => run()[name].log.ratio).filter((v) => v > 1e-4 && v < 1e9);
    const decades = [Math.floor(Math.log10(Math.min(...ratios))), Math.ceil(Math.log10(Math.max(...ratios)))];
    plot(2, "drift to noise (log)", decades.map((k) => 10 ** k), [["ratio", colors.purple, []]], { log: true });
  }

  // --- The page ------------------------------------------------------------------------

  ui.header("Watch it train", "Scrub through two saved runs of contrastive divergence, "
    + "one healthy and one diverging. Which curve is the first to tell them apart?");
  const top = ui.group("controls", "What to watch");
  ui.select({ label: "Data", parent: top, value: "points", onChange: setRun,
    options: Object.entries(WATCH_RUNS).map(([key, { title }]) => [key, title]) });
  const scrub = ui.slider({ label: "Training step", min: 0, max: last(), step: 1, value: 0, parent: top,
    show: (k) => `${Math.round(k) * run().every} of ${run().steps}`, onInput: go });
  const buttons = ui.group("buttons", "Replay");
  const loop = ui.loop((seconds) => {
    const before = checkpoint();
    state.place = Math.min(state.place + SPEED * seconds, last());
    if (checkpoint() !== before) update();
    if (state.place >= last()) player.pause();
  });
  const player = ui.play(loop, { parent: buttons, autostart: false });
  player.element.addEventListener("click", () => { if (loop.running && state.place >= last()) state.place = 0; });
  ui.button({ label: "‹ Back", parent: buttons, onPress: () => go(checkpoint() - 1) });
  ui.button({ label: "On ›", parent: buttons, onPress: () => go(checkpoint() + 1) });
  ui.toggle({ label: "Same scale on both sides", parent: buttons,
    onChange: (on) => { state.same = on; ui.redraw(); } });
  const showData = ui.toggle({ label: "Show the data (green)", value: true, parent: buttons,
    onChange: (on) => { state.data = on; ui.redraw(); } });
  const panels = ui.group("panels"), samples = {}, readouts = {}, notes = {};
  const aspect = window.matchMedia("(max-width: 480px)").matches ? 0.45 : 0.85; // of the curves
  for (const [side, title] of Object.entries(SIDES)) {
    const column = ui.group("column", title, panels);
    samples[side] = ui.canvas({ label: `${title}: samples`, caption: title, parent: column,
      draw: (...on) => drawSamples(side, ...on) });
    notes[side] = ui.note("", column);
    ui.canvas({ label: `${title}: vital signs over the training steps`, parent: column, aspect,
      draw: (...on) => drawVitals(side, ...on) });
    readouts[side] = ui.readouts({ data: "E(data)", chain: "E(chains)", gap: "gap",
      ratio: "drift to noise", apart: "distance to the true density" }, column);
  }

  /** Stop the replay and show this checkpoint. */
  function go(place) {
    player.pause();
    state.place = Math.min(Math.max(place, 0), last());
    update();
  }

  function setRun(name) {
    player.pause();
    Object.assign(state, { run: name, place: 0 });
    scrub.element.max = last();
    showData.element.parentElement.hidden = name !== "points";
    for (const side of Object.keys(SIDES)) {
      samples[side].element.style.aspectRatio = name === "points" ? "1" : "1.16";
      notes[side].textContent = `${run()[side].how}.`;
    }
    update();
  }

  setRun("points");
  ui.expose({ state, run, figure, loop, show(k) { state.place = k; update(); } });
});
