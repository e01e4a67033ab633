// The demo "Paint a defect" (front page, chapters 9 and 14): draw on a part, see its energy
// rise and the gradient light up. The network is data/nut_model.js, its mathematics
// patch_energy.js; what painting does to a picture is painting.js.
EBM.demo("paint", (ui) => {
  "use strict";
  const model = EBM_NUT_MODEL, { normals, defects } = EBM_NUT_IMAGES, SIZE = model.size;
  const { standardizer, threshold, energies, quality, widths } = model, { format } = EBM;
  const CELLS = SIZE / model.config.stride, AREA = SIZE * SIZE, { clamp } = Painting;
  const picture = new Painting(SIZE), times = []; // ms from a change to the drawn map
  const state = { // what is drawn
    shown: picture.paint, // what the network sees: painted, in its light
    result: null, // the last answer, with the map on the scale of its colors
    truth: null, // the mask of a real defect
    overlay: false,
    brush: null, // { x, y, radius } in pixels of the part, where it is seen
  };
  const hand = { erasing: false, penDown: false, cursor: [SIZE / 2, SIZE / 2], pointer: null };
  const next = { normal: 0, defect: 0 };
  const view = paintView(ui, state, SIZE, energies, threshold.value);
  const network = paintNetwork(model, answered);

  // --- From a change to the drawn answer ---------------------------------------------------

  function changed() {
    state.shown = picture.lit(light.value, contrast.value);
    network.ask({ image: state.shown, changed: performance.now() });
    part.redraw();
  }

  function answered({ energy, map: cells, gradient, changed: since }) {
    state.result = { energy, cells, norm: PatchMath.channelNorm(gradient, 3) };
    show();
    times.push(performance.now() - since);
    if (times.length > 500) times.shift();
  }

  /** Words, numbers and pictures of the last answer. */
  function show() {
    if (!state.result) return;
    const { energy } = state.result, bad = energy > threshold.value;
    const verdict = bad ? "defective" : "normal";
    const below = format(100 * PatchMath.shareBelow(energies, energy), 1);
    const peak = readMap(), where = `column ${(peak % SIZE) + 1}, row ${Math.floor(peak / SIZE) + 1}`;
    readout("energy", format(energy, 1));
    readout("place", `${below} %`);
    readout("verdict", `${bad ? "✗" : "✓"} ${verdict}`);
    ui.root.dataset.verdict = verdict;
    const told = `Energy ${format(energy, 1)}, above ${below} percent of normal parts. Verdict: ${verdict}.`;
    ui.say(`${hand.penDown ? "Pen down. " : ""}${told} The map is highest at ${where} of ${SIZE}.`);
    map.describe(`Highest at ${where} of ${SIZE}`);
    histogram.describe(told);
    map.paint();
    histogram.redraw();
    if (state.overlay) part.redraw();
  }

  /** The chosen map as shares of its color scale, into the result; where it is highest. */
  function readMap() {
    const { norm, cells } = state.result, k = blur.value, name = kind.value;
    const smooth = (values) => PatchMath.smooth(values, SIZE, SIZE, widths[k]);
    let values = smooth(norm);
    if (name === "weighted") {
      const patches = smooth(PatchMath.upsample(cells, CELLS, CELLS, SIZE, SIZE));
      values = PatchMath.weighted(values, patches, model.share);
    }
    const peak = PatchMath.argmax(values), { mean, std, top } = standardizer[name] ?? {};
    const [zero, unit] = name === "raw" ? [0, values[peak] || 1] : [mean[k], std[k] * top];
    Object.assign(state.result, { peak, shares: values.map((v) => (v - zero) / unit) });
    colors.textContent = name === "raw"
      ? "Black is 0, the brightest color this map's own maximum: a normal part has one too."
      : (name === "weighted" ? "The gradient, weighted by the energies of the patches. " : "")
        + `Black is the mean of normal parts, the brightest color ${Math.round(top)} standard `
        + "deviations above it, on every part.";
    return peak;
  }

  // --- Pictures to paint on ----------------------------------------------------------------

  function load(pixels, mask, words) {
    picture.load(pixels);
    state.truth = mask;
    message.textContent = words;
    light.set(1);
    contrast.set(1);
    changed();
  }

  /** Bytes (SIZE, SIZE, channels) -> (3, SIZE, SIZE) in [0, 1]; an alpha is dropped. */
  function unpack(bytes) {
    const channels = bytes.length / AREA;
    const at = (i) => (i % AREA) * channels + Math.floor(i / AREA);
    return Float64Array.from({ length: 3 * AREA }, (_, i) => bytes[at(i)] / 255);
  }

  function newPart() {
    const bytes = PatchMath.decodeBytes(normals[next.normal++ % normals.length]);
    load(unpack(bytes), null, "A normal part that the network has never seen.");
  }

  function realDefect() {
    const { kind: name, image, mask } = defects[next.defect++ % defects.length];
    load(unpack(PatchMath.decodeBytes(image)), PatchMath.bits(PatchMath.decodeBytes(mask)),
      `A defective part of the test set (${name}). The line on the map is the true mask. `
      + "The network has seen neither.");
  }

  async function ownPicture(file) {
    const image = new Image(), small = document.createElement("canvas"), g = small.getContext("2d");
    image.src = URL.createObjectURL(file);
    try {
      await image.decode();
      const [w, h] = [image.naturalWidth, image.naturalHeight], side = Math.min(w, h);
      small.width = small.height = SIZE;
      g.imageSmoothingQuality = "high";
      g.drawImage(image, (w - side) / 2, (h - side) / 2, side, side, 0, 0, SIZE, SIZE);
      load(unpack(g.getImageData(0, 0, SIZE, SIZE).data), null,
        "Your picture, cut to a square. It stays on this device. The network knows drawn nuts "
        + "only: anything else is strange to it.");
    } catch { message.textContent = "This file could not be read as a picture."; }
    URL.revokeObjectURL(image.src);
  }

  // --- Painting by mouse, finger and keys --------------------------------------------------

  const inPicture = (x, y) => [(x / part.width) * SIZE, (y / part.height) * SIZE];

  function stroke(x, y) {
    picture.stroke(x, y, size.value / 2, hand.erasing ? null : [ink.value, ink.value, ink.value]);
    changed();
  }

  /** Show the ring of the brush where the pointer or, with the keyboard, the cursor is. */
  function moveBrush(pointer) {
    hand.pointer = pointer;
    const focused = document.activeElement === part.element;
    const [x, y] = pointer ?? (focused ? hand.cursor : [null]);
    state.brush = x === null ? null : { x, y, radius: (size.value + 1) / 2 };
    part.redraw();
  }

  function point(x, y) {
    moveBrush(inPicture(x, y));
    stroke(...hand.pointer);
  }

  function keyboard(key, event) {
    const ways = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    const way = ways[key], far = event.shiftKey ? 4 : 1;
    if (way) hand.cursor = hand.cursor.map((v, i) => clamp(v + far * way[i], 0.5, SIZE - 0.5));
    else if (key === " " || key === "Escape") {
      if (event.repeat) return true;
      hand.penDown = key === " " && !hand.penDown;
      picture.begin();
    } else return false;
    moveBrush(null);
    const [column, row] = hand.cursor.map(Math.ceil);
    if (hand.penDown) stroke(...hand.cursor);
    else ui.say(`Pen up at column ${column}, row ${row}.`);
    return true;
  }

  function erase(yes) {
    hand.erasing = yes;
    brush.setAttribute("aria-pressed", String(!yes));
    eraser.setAttribute("aria-pressed", String(yes));
  }

  // --- The page ----------------------------------------------------------------------------

  ui.header("Paint a defect", "Draw on the part. The energy says whether it is normal, the "
    + "gradient of the energy where it is not.");
  const readout = ui.readouts({ verdict: "verdict", energy: "energy", place: "normal parts below" });
  const panels = ui.group("panels");
  const part = ui.canvas({
    parent: panels, label: "The part, to paint on", caption: "The part", draw: view.part,
    down(x, y) { picture.begin(); point(x, y); }, move: point,
    hover(x, y) { moveBrush(inPicture(x, y)); }, keys: keyboard,
    help: "Keys: arrows move (Shift: faster), Space puts the pen down and lifts it.",
  });
  for (const name of ["pointerleave", "focus", "blur"]) {
    part.element.addEventListener(name, () => moveBrush(null));
  }
  const map = ui.canvas({ parent: panels, label: "Map of the gradient", draw: view.map,
    caption: "Where: the gradient of the energy" });
  const colors = ui.note("", map.element.parentElement);

  const tools = ui.group("buttons", "Painting");
  const button = (label, onPress, pressed) => ui.button({ label, onPress, pressed, parent: tools });
  const brush = button("Brush", () => erase(false), true);
  const eraser = button("Eraser", () => erase(true), false);
  button("Scratch", () => { picture.scratch(ink.value); changed(); });
  button("Spot", () => { picture.spot(ink.value); changed(); });
  button("Undo all", () => load(picture.base, state.truth, message.textContent));
  button("New part", newPart);
  button("A real defect", realDefect);
  ui.file({ label: "Your own picture", onFile: ownPicture, parent: tools });
  ui.toggle({ label: "Map over the part", parent: tools,
    onChange: (on) => { state.overlay = on; part.redraw(); } });
  const message = ui.note("");

  const histogram = ui.canvas({ label: "Energies of normal parts", draw: view.histogram, aspect: 3.4,
    caption: `Whether: its energy among those of ${energies.length} normal parts` });

  const controls = ui.group("controls", "Settings");
  const slider = (label, min, max, step, value, more) =>
    ui.slider({ label, min, max, step, value, parent: controls, ...more });
  const size = slider("Brush size", 1, 8, 0.5, 2, { digits: 1, unit: " px" });
  const ink = slider("Ink", -0.5, 0.5, 0.05, -0.35,
    { show: (v) => `${v < 0 ? "darker" : "lighter"} by ${format(Math.abs(v), 2)}` });
  const light = slider("Brightness", 0.5, 1.5, 0.02, 1, { onInput: changed });
  const contrast = slider("Contrast", 0.5, 1.5, 0.02, 1, { onInput: changed });
  const blur = slider("Map smoothing", 0, widths.length - 1, 1, widths.indexOf(model.smoothing),
    { show: (k) => `${widths[k]} px`, onInput: show });
  const kind = ui.select({
    label: "Gradient map", value: "weighted", onChange: show, parent: controls,
    options: [["weighted", "weighted"], ["gradient", "standardized"], ["raw", "raw"]],
  });
  const few = (value) => value.toFixed(2);
  ui.note(`The network has ${model.parameters.toLocaleString("en")} weights and learned from `
    + `${model.data.train.toLocaleString("en")} drawn nuts without defects. The threshold leaves `
    + `${Math.round(100 * threshold.rate)} % of held-out normal parts above it. On the test images it `
    + `flags ${quality.found} of ${quality.defective} defects and ${quality.false_alarms} of `
    + `${quality.normal} normal parts; the image AUROC of the energy is ${few(quality.image_auroc[0])}, `
    + `the AU-PRO of the map ${few(quality.weighted.au_pro[0])} (of the gradient alone `
    + `${few(quality.gradient.au_pro[0])}). All is computed here, in your browser; nothing is sent.`);

  ui.expose({ times, picture, network, state, settled: network.settled }); // for tests
  newPart();
});
