// The demo "Sculpt an energy" (chapters 2 and 3): drag wells and hills, see the density
// with its Z, and watch Langevin particles find it, or miss it.
EBM.demo("sculpt", (ui) => {
  "use strict";
  const M = LangevinMath, { format } = EBM;
  const HALF = 3.5, FINE = M.grid(HALF, 72), COARSE = M.grid(HALF, 36);
  const MEMORY = 0.995; // the histogram remembers some 200 steps
  const SCULPTURE = [
    { x: -1.5, y: 0.6, height: -5, size: 0.7 },
    { x: 1.4, y: -0.7, height: -4.5, size: 0.9 },
    { x: 0.3, y: 1.4, height: 3, size: 0.6 },
  ];
  const SPOTS = [[0, 0], [2, 2], [-2, -2], [2, -2], [-2, 2], [0, -2], [0, 2]]; // of new ones
  const GAUSS = [0.25, 1]; // variances of x1 and x2
  const ENERGIES = {
    sculpt: () => M.sculpted(state.bumps),
    gaussian: () => M.gaussian([0, 0], [[GAUSS[0], 0], [0, GAUSS[1]]]),
    moons: () => M.twoMoons(),
    ring: () => M.ring(2, 0.25),
    wells: () => M.doubleWell(4, 1.5, 0.5),
  };
  const TRIALS = [ // name, energy, step, temperature, clip, start
    ["A good chain", "sculpt", 0.02, 1, Infinity, "everywhere"],
    ["Too large a step", "gaussian", 0.42, 1, Infinity, "everywhere"],
    ["Too cold", "sculpt", 0.02, 0.02, Infinity, "everywhere"],
    ["Stuck in one well", "wells", 0.01, 0.5, Infinity, "left"],
    ["Clipped too hard", "gaussian", 0.02, 1, 0.5, "everywhere"],
  ];
  const state = {
    name: "sculpt", bumps: SCULPTURE.map((b) => ({ ...b })), chosen: 0,
    step: 0.02, noise: M.noiseFor(0.02), clip: Infinity, count: 400, speed: 3, seed: 1,
    start: "everywhere", escaped: 0, info: null,
  };
  const scene = { // what is computed from the state
    energy: null, energies: null, exact: null, cloud: null, pictures: {}, found: null,
    exactMarginal: null, warmMarginal: null, apart: NaN,
    get temperature() { return state.noise ** 2 / (2 * state.step); },
  };
  const histogram = M.memory(COARSE);
  const view = sculptView(ui, state, scene, COARSE);

  // --- The model ---------------------------------------------------------------------------

  function newEnergy() {
    const energy = ENERGIES[state.name](), energies = M.energyGrid(energy, FINE);
    const exact = M.density(energies, FINE);
    const low = Math.min(...energies), top = Math.max(...exact.p);
    const exactMarginal = M.coarser(M.marginal(exact.p, FINE));
    Object.assign(scene, { energy, energies, exact, exactMarginal });
    scene.pictures = {
      energy: EBM.picture(energies, FINE.n, FINE.n, (e) => EBM.heat(0.97 - (e - low) / 9)),
      density: EBM.picture(exact.p, FINE.n, FINE.n, (p) => EBM.heat(p / top)),
      top,
    };
    histogram.clear();
    newTemperature();
  }

  function newTemperature() {
    const warm = M.density(scene.energies, FINE, Math.max(scene.temperature, 1e-3));
    scene.warmMarginal = M.coarser(M.marginal(warm.p, FINE));
    refresh();
  }

  function newParticles() {
    const start = state.start === "left" ? [-1.5, 0] : "everywhere";
    scene.cloud = M.particles(state.count, state.seed, { half: 3, start });
    Object.assign(state, { escaped: 0, info: null });
    histogram.clear();
    histogram.add(scene.cloud);
    refresh();
  }

  function advance(times) {
    for (let k = 0; k < times; k++) {
      state.info = M.advance(scene.cloud, scene.energy, state);
      state.escaped += state.info.escaped;
      histogram.add(scene.cloud, MEMORY);
    }
    refresh();
  }

  function refresh() {
    if (!scene.cloud) return;
    const p = histogram.density(), marginal = M.marginal(p, COARSE);
    scene.found = { p, marginal };
    scene.apart = M.totalVariation(scene.exactMarginal, marginal, COARSE.side);
    ui.redraw();
    readouts();
  }

  function readouts() {
    const { energy, exact, cloud } = scene, z = format(Math.exp(exact.logZ));
    const rest = M.restingVariance(1 / GAUSS[0], state.step, state.noise);
    show("z", energy.logZ === null ? z : `${z} (exact ${format(Math.exp(energy.logZ))})`);
    show("energy", `${format(M.meanEnergy(cloud, energy))} / ${format(exact.meanEnergy)}`);
    show("apart", `${format(100 * scene.apart, 0)} %`);
    show("ratio", state.info ? format(state.info.driftToNoise) : "–");
    show("steps", String(cloud.steps));
    show("escaped", String(state.escaped));
    show("variance", state.name !== "gaussian" ? null
      : `${format(M.variance(cloud.x))} / ${format(GAUSS[0])} / ${format(rest)}`);
  }

  const summary = () => `${scene.cloud.steps} steps. Particles and exact density differ by `
    + `${format(100 * scene.apart, 0)} percent; ${state.escaped} particles exploded.`;

  // --- Wells and hills ---------------------------------------------------------------------

  const chosen = () => state.bumps[state.chosen];
  const kind = (b) => (b.height < 0 ? "Well" : "Hill");
  const inside = (v) => Math.min(Math.max(v, -3), 3);
  const place = (x, y) => changeBump({ x: inside(x), y: inside(y) });

  /** The one under a finger or the mouse, or -1. */
  function nearest(px, py) {
    const s = EBM.square(HALF, landscape.width);
    let best = -1, reach = 24;
    state.bumps.forEach((b, k) => {
      const d = Math.hypot(s.X(b.x) - px, s.Y(b.y) - py);
      if (d < reach) { reach = d; best = k; }
    });
    return best;
  }

  function choose(k) {
    state.chosen = k;
    const b = chosen();
    [height, size].forEach((slider) => slider.disable(!b));
    remove.disabled = !b;
    if (b) { height.set(b.height); size.set(b.size); }
    landscape.redraw();
  }

  function changeBump(change) {
    Object.assign(chosen() ?? {}, change);
    newEnergy();
    ui.say(`Z on the grid is now ${format(Math.exp(scene.exact.logZ))}.`);
  }

  function add(height) {
    const [x, y] = SPOTS[state.bumps.length % SPOTS.length];
    state.bumps.push({ x, y, height, size: 0.7 });
    choose(state.bumps.length - 1);
    newEnergy();
    ui.say(`${kind({ height })} ${state.bumps.length} added.`);
  }

  function takeAway() {
    state.bumps.splice(state.chosen, 1);
    choose(Math.max(0, Math.min(state.chosen, state.bumps.length - 1)));
    newEnergy();
  }

  function keys(key, event) {
    if (state.name !== "sculpt") return false;
    const b = chosen(), far = event.shiftKey ? 0.5 : 0.1;
    const moves = { ArrowLeft: [-far, 0], ArrowRight: [far, 0], ArrowUp: [0, far], ArrowDown: [0, -far] };
    if (key in moves && b) place(b.x + moves[key][0], b.y + moves[key][1]);
    else if (key.toLowerCase() === "n" && b) choose((state.chosen + 1) % state.bumps.length);
    else if (key.toLowerCase() === "w") add(-4);
    else if (key.toLowerCase() === "h") add(3);
    else if (key === "Delete" && b) takeAway();
    else return false;
    const now = chosen();
    ui.say(!now ? "Nothing left." : `${kind(now)} ${state.chosen + 1} of ${state.bumps.length} `
      + `at ${format(now.x, 1)}, ${format(now.y, 1)}.`);
    return true;
  }

  // --- The page ----------------------------------------------------------------------------

  ui.header("Sculpt an energy", "Drag the wells (−) and hills (+), or pick a known energy. "
    + "The white particles run Langevin dynamics; do they find the exact density?");
  const trials = ui.group("buttons", "Things to try");
  trials.append(EBM.el("span", {}, "Try:"));
  for (const [label, ...setting] of TRIALS) ui.button({ label, parent: trials, onPress: () => tryOut(...setting) });
  const top = ui.group("controls", "Energy");
  const pick = ui.select({ label: "Energy", parent: top, value: "sculpt", onChange: setEnergy,
    options: [["sculpt", "Sculpt it yourself"], ["gaussian", "Gaussian"], ["moons", "Two moons"],
      ["ring", "Ring"], ["wells", "Double well"]] });
  const background = ui.select({ label: "Background", parent: top, value: "energy",
    onChange: () => landscape.redraw(),
    options: [["energy", "energy"], ["density", "density"]] });
  const startAt = ui.select({ label: "Particles start", parent: top, value: "everywhere",
    onChange: (v) => { state.start = v; newParticles(); },
    options: [["everywhere", "everywhere"], ["left", "in one point"]] });
  const panels = ui.group("panels");
  const landscape = ui.canvas({ label: "Energy of two variables with particles",
    caption: "Particles (bright: low, or likely)",
    parent: panels, draw: (...on) => view.landscape(background.value, ...on), keys,
    grab: (x, y) => state.name === "sculpt" && nearest(x, y) >= 0, down: (x, y) => choose(nearest(x, y)),
    move: (x, y) => { const s = EBM.square(HALF, landscape.width); place(s.x(x), s.y(y)); },
    help: "Keyboard: arrows move the chosen one, N takes the next, W adds a well, H a hill, Delete removes." });
  ui.canvas({ label: "Exact density beside the histogram of the particles", caption: "Exact against sampled",
    parent: panels, aspect: 0.9, draw: view.compare });

  const sculpting = ui.group("column", "Wells and hills");
  const shape = ui.group("controls", "The chosen one", sculpting);
  const height = ui.slider({ label: "Height of the chosen one", min: -7, max: 5, step: 0.25, value: -5, parent: shape,
    onInput: (v) => changeBump({ height: v }) });
  const size = ui.slider({ label: "Width of the chosen one", min: 0.25, max: 1.5, step: 0.05, value: 0.7,
    parent: shape, onInput: (v) => changeBump({ size: v }) });
  const tools = ui.group("buttons", "Add or remove", sculpting);
  ui.button({ label: "Add well", parent: tools, onPress: () => add(-4) });
  ui.button({ label: "Add hill", parent: tools, onPress: () => add(3) });
  const remove = ui.button({ label: "Remove", parent: tools, onPress: takeAway });

  const run = ui.group("buttons", "Run");
  const loop = ui.loop(() => advance(state.speed));
  const player = ui.play(loop, { parent: run, onChange: () => { if (scene.cloud) ui.say(summary()); } });
  ui.button({ label: "One step", parent: run, onPress: () => { player.pause(); advance(1); ui.say(summary()); } });
  ui.button({ label: "Reset", parent: run, hint: "The same start again", onPress: newParticles });
  const reseed = ui.button({ label: "New seed (now 1)", parent: run, onPress: () => {
    reseed.textContent = `New seed (now ${++state.seed})`;
    newParticles();
  } });
  const show = ui.readouts({ z: "Z on the grid", energy: "mean energy: particles / exact",
    apart: "distance of the x₁ histograms", ratio: "drift to noise", steps: "steps",
    escaped: "exploded particles", variance: "variance of x₁: now / exact / formula" });

  const sliders = ui.group("controls", "Langevin dynamics");
  const step = ui.slider({ label: "Step size ε", min: 0.001, max: 1, scale: "log", digits: 3, value: state.step,
    parent: sliders, onInput: (v) => setChain(v, scene.temperature) });
  const noise = ui.slider({ label: "Noise η", min: 0.001, max: 2, scale: "log", digits: 3, value: state.noise,
    parent: sliders, onInput: (v) => setChain(state.step, v * v / (2 * state.step)) });
  const heat = ui.slider({ label: "Temperature η²/2ε", min: 0.01, max: 4, scale: "log", value: 1,
    parent: sliders, onInput: (v) => setChain(state.step, v) });
  const clip = ui.slider({ label: "Clip of the gradient", min: 0.1, max: 100, scale: "log", value: 100,
    parent: sliders, show: (v) => (v > 99 ? "off" : format(v, 1)),
    onInput: (v) => { state.clip = v > 99 ? Infinity : v; histogram.clear(); } });
  ui.slider({ label: "Particles", min: 50, max: 1000, step: 50, value: state.count, digits: 0, parent: sliders,
    onInput: (v) => { state.count = v; newParticles(); } });
  ui.slider({ label: "Steps per picture", min: 1, max: 20, step: 1, value: state.speed, digits: 0, parent: sliders,
    onInput: (v) => { state.speed = v; } });

  /** Step and temperature decide; the noise follows: η = sqrt(2 ε T). */
  function setChain(epsilon, hot) {
    Object.assign(state, { step: epsilon, noise: M.noiseFor(epsilon, hot) });
    step.set(epsilon);
    noise.set(state.noise);
    heat.set(hot);
    histogram.clear();
    newTemperature();
    ui.say(`Step ${format(epsilon, 3)}, noise ${format(state.noise, 3)}, temperature ${format(hot)}.`);
  }

  function setEnergy(name) {
    state.name = name;
    sculpting.hidden = name !== "sculpt";
    newEnergy();
    choose(state.chosen);
    ui.say(`Z on the grid is ${format(Math.exp(scene.exact.logZ))}.`);
  }

  function tryOut(name, epsilon, hot, limit, start) {
    Object.assign(state, { start, clip: limit });
    pick.set(name);
    startAt.set(start);
    clip.set(Math.min(limit, 100));
    setEnergy(name);
    setChain(epsilon, hot);
    newParticles();
    if (!ui.still) player.start();
  }

  newEnergy();
  newParticles();
  choose(0);
  ui.expose({ state, scene, advance, loop });
});
