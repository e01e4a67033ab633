// The pictures of "Sculpt an energy": what sculpt.js computed (`scene`), drawn on two
// canvases. `state` holds the wells and hills and the settings of the chain.
const sculptView = (ui, state, scene, grid) => {
  "use strict";
  const { format } = EBM, { half, n: bins } = grid;
  const edges = Array.from({ length: bins + 1 }, (_, i) => -half + 2 * half * i / bins);
  const centers = edges.slice(1).map((right, i) => (edges[i] + right) / 2);

  /** The energy or the density with the particles, and handles on wells and hills. */
  function landscape(background, g, w) {
    const s = EBM.square(half, w);
    g.drawImage(scene.pictures[background], 0, 0, w, w);
    EBM.points(g, s, scene.cloud.x, scene.cloud.y);
    if (state.name !== "sculpt") return;
    state.bumps.forEach((b, k) => {
      const [x, y, well] = [s.X(b.x), s.Y(b.y), b.height < 0];
      const ring = k === state.chosen ? "#ffffff" : "#10202c";
      EBM.dot(g, x, y, { color: well ? "#0072b2" : "#c85000", ring, radius: 13 });
      const sign = { color: "#ffffff", size: 20, align: "center", baseline: "middle", weight: "bold" };
      EBM.text(g, well ? "−" : "+", x, y + 1, sign);
    });
  }

  /** The exact density, the particles' histogram on the same scale, and the marginals. */
  function compare(g, w, h) {
    const { colors } = ui, gap = 10, side = (w - gap) / 2, { pictures, found, exactMarginal } = scene;
    EBM.text(g, "exact density", 0, 12, { color: colors.ink });
    EBM.text(g, "particles, last 200 steps", side + gap, 12, { color: colors.ink, most: side });
    g.drawImage(pictures.density, 0, 18, side, side);
    pictures.found = EBM.picture(found.p, bins, bins, (p) => EBM.heat(p / pictures.top), pictures.found);
    g.save();
    g.imageSmoothingEnabled = false;
    g.drawImage(pictures.found, side + gap, 18, side, side);
    g.restore();
    const most = Math.max(...exactMarginal, ...found.marginal) * 1.1;
    const axis = EBM.axes(g, colors, {
      x: [-half, half], y: [0, most], xLabel: "x₁", yLabel: "density of x₁",
      box: [34, side + 62, w - 44, h - side - 100],
    });
    EBM.bars(g, axis, edges, found.marginal, { color: colors.sky, alpha: 0.75 });
    EBM.line(g, axis, centers, exactMarginal, { color: colors.ink });
    const names = [["particles", colors.sky], ["exact", colors.ink]];
    if (Math.abs(scene.temperature - 1) > 0.02) { // what a chain of this temperature aims at
      EBM.line(g, axis, centers, scene.warmMarginal, { color: colors.vermilion, dash: [6, 4] });
      names.push([`at T = ${format(scene.temperature)}`, colors.vermilion, [6, 4]]);
    }
    EBM.legend(g, colors, names, 34, side + 34);
  }

  return { landscape, compare };
};
