// The mathematics of "Sculpt an energy": energies of two variables, their densities on a
// grid, and Langevin particles. No DOM: the tests run this file in Node. The energies
// are those of ebmlib.energy, the step is that of ebmlib.langevin.
const LangevinMath = (() => {
  "use strict";
  const LOG_2PI = Math.log(2 * Math.PI);

  // --- Energies: { value(x, y), gradient(x, y) -> [dE/dx, dE/dy], logZ or null } -------

  /** E = (z - mean)' precision (z - mean) / 2. */
  function gaussian(mean, [[a, b], [c, d]]) {
    const det = a * d - b * c; // of the covariance [[a, b], [c, d]]
    const [pa, pb, pd] = [d / det, -b / det, a / det];
    return {
      logZ: LOG_2PI + 0.5 * Math.log(det),
      value(x, y) {
        const u = x - mean[0], v = y - mean[1];
        return 0.5 * (pa * u * u + 2 * pb * u * v + pd * v * v);
      },
      gradient(x, y) {
        const u = x - mean[0], v = y - mean[1];
        return [pa * u + pb * v, pb * u + pd * v];
      },
    };
  }

  /** E = -log sum_k w_k N(z; mean_k, std_k^2 I), with weights that sum to one: Z = 1. */
  function mixture(means, stds, weights = means.map(() => 1)) {
    const total = weights.reduce((sum, w) => sum + w, 0);
    const peaks = means.map((_, k) => Math.log(weights[k] / total) - LOG_2PI - 2 * Math.log(stds[k]));
    const logs = new Float64Array(means.length);
    const evaluate = (x, y) => { // fills logs, returns their log-sum-exp
      let top = -Infinity;
      for (let k = 0; k < logs.length; k++) {
        const u = x - means[k][0], v = y - means[k][1];
        logs[k] = peaks[k] - (u * u + v * v) / (2 * stds[k] * stds[k]);
        if (logs[k] > top) top = logs[k];
      }
      let sum = 0;
      for (const value of logs) sum += Math.exp(value - top);
      return top + Math.log(sum);
    };
    return {
      logZ: 0,
      value: (x, y) => -evaluate(x, y),
      gradient(x, y) {
        const all = evaluate(x, y);
        let gx = 0, gy = 0;
        for (let k = 0; k < logs.length; k++) {
          const share = Math.exp(logs[k] - all) / (stds[k] * stds[k]);
          gx += share * (x - means[k][0]);
          gy += share * (y - means[k][1]);
        }
        return [gx, gy];
      },
    };
  }

  /** Two half circles that interlock, as a mixture of `beads` Gaussians along each. */
  function twoMoons({ radius = 1.7, std = 0.28, beads = 9 } = {}) {
    const means = [];
    for (const side of [1, -1]) {
      for (let i = 0; i < beads; i++) {
        const angle = Math.PI * i / (beads - 1);
        means.push([side * (radius * Math.cos(angle) - radius / 2), side * (radius * Math.sin(angle) - radius / 4)]);
      }
    }
    return Object.assign(mixture(means, means.map(() => std)), { means, std });
  }

  /** E = (|z| - radius)^2 / (2 width^2). */
  function ring(radius = 2.0, width = 0.3) {
    const inner = width ** 2 * Math.exp(-(radius ** 2) / (2 * width ** 2));
    const outer = radius * width * Math.sqrt(Math.PI / 2) * (1 + erf(radius / (width * Math.SQRT2)));
    return {
      logZ: Math.log(2 * Math.PI * (inner + outer)),
      value: (x, y) => 0.5 * ((Math.hypot(x, y) - radius) / width) ** 2,
      gradient(x, y) {
        const r = Math.hypot(x, y);
        const slope = r > 0 ? (r - radius) / (width * width * r) : 0;
        return [slope * x, slope * y];
      },
    };
  }

  /** E = barrier ((x/separation)^2 - 1)^2 + (y/width)^2 / 2. */
  function doubleWell(barrier = 4.0, separation = 1.5, width = 0.5) {
    const far = 1 + Math.sqrt(50 / barrier), n = 2000; // as in ebmlib; even n for Simpson
    let sum = 0;
    for (let i = 0; i <= n; i++) {
      const u = far * i / n;
      sum += (i % n === 0 ? 1 : i % 2 ? 4 : 2) * Math.exp(-barrier * (u * u - 1) ** 2);
    }
    const half = sum * far / (3 * n);
    return {
      logZ: Math.log(2 * separation * half * width * Math.sqrt(2 * Math.PI)),
      value: (x, y) => barrier * ((x / separation) ** 2 - 1) ** 2 + 0.5 * (y / width) ** 2,
      gradient(x, y) {
        const u = x / separation;
        return [4 * barrier * u * (u * u - 1) / separation, y / (width * width)];
      },
    };
  }

  /** A shallow bowl and Gaussian bumps { x, y, height, size }; a height below 0 is a well.
   * E = bowl |z|^2 / 2 + sum_k height_k exp(-|z - c_k|^2 / (2 size_k^2)). Z: only the grid. */
  function sculpted(bumps, bowl = 0.25) {
    return {
      logZ: null, bumps,
      value(x, y) {
        let e = 0.5 * bowl * (x * x + y * y);
        for (const b of bumps) e += b.height * Math.exp(-((x - b.x) ** 2 + (y - b.y) ** 2) / (2 * b.size ** 2));
        return e;
      },
      gradient(x, y) {
        let gx = bowl * x, gy = bowl * y;
        for (const b of bumps) {
          const u = x - b.x, v = y - b.y, s = b.size ** 2;
          const slope = -b.height / s * Math.exp(-(u * u + v * v) / (2 * s));
          gx += slope * u;
          gy += slope * v;
        }
        return [gx, gy];
      },
    };
  }

  /** Error function: series below 3, continued fraction above; error below 1e-14. */
  function erf(x) {
    if (x < 0) return -erf(-x);
    if (x > 6) return 1;
    if (x < 3) {
      let term = x, sum = x;
      for (let n = 1; Math.abs(term) > 1e-17 * sum; n++) {
        term *= -x * x / n;
        sum += term / (2 * n + 1);
      }
      return 2 / Math.sqrt(Math.PI) * sum;
    }
    let fraction = 0;
    for (let n = 60; n > 0; n--) fraction = n / 2 / (x + fraction);
    return 1 - Math.exp(-x * x) / ((x + fraction) * Math.sqrt(Math.PI));
  }

  // --- The density on a grid ---------------------------------------------------------

  /** n x n cells over [-half, half]^2; row 0 is the top, as in a picture. */
  const grid = (half, n) => ({ half, n, side: 2 * half / n, center: (i) => -half + (i + 0.5) * 2 * half / n });

  /** Energies at the cell centers, row by row. */
  function energyGrid(energy, g) {
    const values = new Float64Array(g.n * g.n);
    for (let row = 0, i = 0; row < g.n; row++) {
      const y = -g.center(row);
      for (let column = 0; column < g.n; column++, i++) values[i] = energy.value(g.center(column), y);
    }
    return values;
  }

  /** p = exp(-E/T) / Z from energies on a grid, by the midpoint rule.
   * Returns { p, logZ, meanEnergy }; p sums to 1 / (cell area). */
  function density(energies, g, temperature = 1) {
    const area = g.side * g.side, p = new Float64Array(energies.length);
    let low = Infinity, sum = 0, weighted = 0;
    for (const e of energies) if (e < low) low = e;
    for (let i = 0; i < p.length; i++) {
      p[i] = Math.exp(-(energies[i] - low) / temperature);
      sum += p[i];
      weighted += p[i] * energies[i];
    }
    for (let i = 0; i < p.length; i++) p[i] /= sum * area;
    return { p, logZ: Math.log(sum * area) - low / temperature, meanEnergy: weighted / sum };
  }

  /** The density of the first variable: p summed over rows, times the cell's height. */
  function marginal(p, g) {
    const m = new Float64Array(g.n);
    for (let i = 0; i < p.length; i++) m[i % g.n] += p[i] * g.side;
    return m;
  }

  /** Means of neighboring pairs: a density on half as many bins. */
  const coarser = (m) => Array.from({ length: m.length / 2 }, (_, i) => (m[2 * i] + m[2 * i + 1]) / 2);

  // --- Random numbers and particles ---------------------------------------------------

  /** Seeded random numbers (mulberry32): uniform() in [0, 1), normal() by Box-Muller. */
  function random(seed) {
    let state = seed >>> 0, spare = null;
    const uniform = () => {
      state = (state + 0x6d2b79f5) >>> 0;
      let t = state;
      t = Math.imul(t ^ (t >>> 15), t | 1);
      t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
      return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
    };
    const normal = () => {
      if (spare !== null) { const kept = spare; spare = null; return kept; }
      const r = Math.sqrt(-2 * Math.log(1 - uniform())), angle = 2 * Math.PI * uniform();
      spare = r * Math.sin(angle);
      return r * Math.cos(angle);
    };
    return { uniform, normal };
  }

  /** n particles. start: "everywhere" in [-half, half]^2, or [x, y], one point. */
  function particles(n, seed, { half = 3, start = "everywhere" } = {}) {
    const rng = random(seed), x = new Float64Array(n), y = new Float64Array(n);
    for (let i = 0; i < n; i++) {
      const place = [half * (2 * rng.uniform() - 1), half * (2 * rng.uniform() - 1)];
      [x[i], y[i]] = start === "everywhere" ? place : start;
    }
    return { n, x, y, rng, half, steps: 0 };
  }

  /** The noise that makes the chain exact at temperature T: sqrt(2 step T). */
  const noiseFor = (step, temperature = 1) => Math.sqrt(2 * step * temperature);

  /** One step of all particles: z <- z - step * clip(dE/dz) + noise * N(0, 1).
   * A particle that leaves [-escape, escape]^2, or is not a number, starts anew.
   * Returns { rms of the clipped gradient, driftToNoise, clipped share, escaped }. */
  function advance(cloud, energy, { step, noise, clip = Infinity, escape = 1e3 }) {
    const { x, y, rng, n, half } = cloud;
    let squares = 0, clipped = 0, escaped = 0;
    for (let i = 0; i < n; i++) {
      let [gx, gy] = energy.gradient(x[i], y[i]);
      clipped += (Math.abs(gx) > clip) + (Math.abs(gy) > clip);
      gx = Math.min(Math.max(gx, -clip), clip);
      gy = Math.min(Math.max(gy, -clip), clip);
      squares += gx * gx + gy * gy;
      x[i] += -step * gx + noise * rng.normal();
      y[i] += -step * gy + noise * rng.normal();
      if (!(Math.abs(x[i]) <= escape && Math.abs(y[i]) <= escape)) {
        escaped++;
        x[i] = half * (2 * rng.uniform() - 1);
        y[i] = half * (2 * rng.uniform() - 1);
      }
    }
    cloud.steps++;
    const rms = Math.sqrt(squares / (2 * n));
    return { rms, driftToNoise: noise > 0 ? step * rms / noise : Infinity, clipped: clipped / (2 * n), escaped };
  }

  /** Mean energy of the particles. */
  function meanEnergy(cloud, energy) {
    let sum = 0;
    for (let i = 0; i < cloud.n; i++) sum += energy.value(cloud.x[i], cloud.y[i]);
    return sum / cloud.n;
  }

  /** Variance of an array of numbers. */
  function variance(x) {
    const mean = x.reduce((a, b) => a + b) / x.length;
    return x.reduce((a, b) => a + (b - mean) ** 2, 0) / x.length;
  }

  /** Counts per cell with a fading memory: every count keeps the share `keep` of itself,
   * then each particle adds one. Particles outside the grid only count in `total`. */
  function memory(g) {
    const counts = new Float64Array(g.n * g.n);
    return {
      counts, total: 0,
      clear() { counts.fill(0); this.total = 0; },
      add(cloud, keep = 1) {
        if (keep < 1) for (let i = 0; i < counts.length; i++) counts[i] *= keep;
        this.total = this.total * keep + cloud.n;
        for (let i = 0; i < cloud.n; i++) {
          const column = Math.floor((cloud.x[i] + g.half) / g.side);
          const row = Math.floor((g.half - cloud.y[i]) / g.side);
          if (column >= 0 && column < g.n && row >= 0 && row < g.n) counts[row * g.n + column]++;
        }
      },
      /** The counts as a density, comparable with `density`. */
      density() { return counts.map((c) => c / (Math.max(this.total, 1) * g.side * g.side)); },
    };
  }

  /** Total variation distance of two densities on bins of width w: 0 equal, 1 disjoint.
   * Mass that q has outside the bins counts in full. */
  function totalVariation(p, q, w) {
    let apart = 0, inside = 0;
    for (let i = 0; i < p.length; i++) { apart += Math.abs(p[i] - q[i]) * w; inside += q[i] * w; }
    return 0.5 * (apart + Math.max(0, 1 - inside));
  }

  /** Variance of the chain on E = a x^2 / 2 at rest: noise^2 / (1 - (1 - step a)^2). */
  function restingVariance(a, step, noise) {
    const keep = 1 - step * a;
    return Math.abs(keep) < 1 ? noise * noise / (1 - keep * keep) : Infinity;
  }

  return { gaussian, mixture, twoMoons, ring, doubleWell, sculpted, erf, grid, energyGrid,
    density, marginal, coarser, random, particles, noiseFor, advance, meanEnergy, variance,
    memory, totalVariation, restingVariance };
})();
if (typeof module !== "undefined") module.exports = LangevinMath;
