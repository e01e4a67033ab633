// Energy, energy map and exact input gradient of a trained ebmlib.networks.PatchEnergy,
// and what ebmlib.scoring makes of the gradient. No DOM, no library: it runs as a
// classic script (from file:// too), in a Web Worker and in Node.
//
// E(x) = sum_p softplus(f_p(x)). The network f is a chain of convolutions with SiLU in
// between. Every convolution is a matrix product of gathered patches, so its backward
// is the product with the transposed weights, scattered back. All sums are doubles.
const PatchMath = (() => {
  "use strict";

  function patchMath() {
    const CHROMA = 2.0; // gain of color differences, as in ebmlib.energy
    const EPS = 1e-4; // variance of 1 % contrast, as in ebmlib.energy
    const LUMINANCE = 1 / Math.sqrt(3);
    const RED_GREEN = CHROMA / Math.sqrt(2);
    const BLUE_YELLOW = CHROMA / Math.sqrt(6);

    const sigmoid = (t) => 1 / (1 + Math.exp(-t));
    const softplus = (t) => Math.max(t, 0) + Math.log1p(Math.exp(-Math.abs(t)));

    /** Base64 of little-endian float32 as doubles. */
    function decodeFloats(text) {
      const bytes = decodeBytes(text);
      const view = new DataView(bytes.buffer);
      return Float64Array.from({ length: bytes.length / 4 }, (_, i) =>
        view.getFloat32(4 * i, true),
      );
    }

    function decodeBytes(text) {
      return Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
    }

    /** Bytes to bits, the highest bit of each byte first. */
    function bits(packed) {
      return Uint8Array.from({ length: 8 * packed.length }, (_, i) => (packed[i >> 3] >> (7 - (i & 7))) & 1);
    }

    /** out = a bᵀ (+ out): a (m, k), b (n, k), out (m, n), rows contiguous. */
    function multiply(a, b, out, m, n, k, add) {
      const mEven = m - (m % 2), nFull = n - (n % 4);
      for (let i = 0; i < mEven; i += 2) {
        const a0 = i * k, a1 = a0 + k, o0 = i * n, o1 = o0 + n;
        for (let j = 0; j < nFull; j += 4) {
          const b0 = j * k, b1 = b0 + k, b2 = b1 + k, b3 = b2 + k;
          let s00 = 0, s01 = 0, s02 = 0, s03 = 0, s10 = 0, s11 = 0, s12 = 0, s13 = 0;
          for (let t = 0; t < k; t++) {
            const x = a[a0 + t], y = a[a1 + t];
            const w0 = b[b0 + t], w1 = b[b1 + t], w2 = b[b2 + t], w3 = b[b3 + t];
            s00 += x * w0; s01 += x * w1; s02 += x * w2; s03 += x * w3;
            s10 += y * w0; s11 += y * w1; s12 += y * w2; s13 += y * w3;
          }
          const p = o0 + j, q = o1 + j;
          if (add) {
            out[p] += s00; out[p + 1] += s01; out[p + 2] += s02; out[p + 3] += s03;
            out[q] += s10; out[q + 1] += s11; out[q + 2] += s12; out[q + 3] += s13;
          } else {
            out[p] = s00; out[p + 1] = s01; out[p + 2] = s02; out[p + 3] = s03;
            out[q] = s10; out[q + 1] = s11; out[q + 2] = s12; out[q + 3] = s13;
          }
        }
      }
      for (let i = 0; i < m; i++) { // what the blocks of 2 x 4 left over
        for (let j = i < mEven ? nFull : 0; j < n; j++) {
          let sum = 0;
          for (let t = 0; t < k; t++) sum += a[i * k + t] * b[j * k + t];
          out[i * n + j] = add ? out[i * n + j] + sum : sum;
        }
      }
    }

    /** A convolution with borders that repeat the last pixel; channels are last. */
    class Conv {
      constructor(layer, weights, height, width) {
        Object.assign(this, layer); // inputs, outputs, kernel, stride, dilation
        const { inputs, outputs, kernel, stride, dilation } = this;
        const pad = dilation * Math.floor((kernel - 1) / 2), taps = kernel * kernel;
        const reach = dilation * (kernel - 1) + 1;
        const clamp = (v, n) => Math.min(Math.max(v, 0), n - 1);
        this.height = Math.floor((height + 2 * pad - reach) / stride) + 1;
        this.width = Math.floor((width + 2 * pad - reach) / stride) + 1;
        this.pixels = this.height * this.width;
        this.size = taps * inputs;
        this.from = new Int32Array(this.pixels * taps); // where each tap reads
        let at = 0;
        for (let y = 0; y < this.height; y++)
          for (let x = 0; x < this.width; x++)
            for (let ky = 0; ky < kernel; ky++)
              for (let kx = 0; kx < kernel; kx++) {
                const row = clamp(y * stride + ky * dilation - pad, height);
                const column = clamp(x * stride + kx * dilation - pad, width);
                this.from[at++] = (row * width + column) * inputs;
              }
        // PyTorch stores (out, in, tap); here (out, tap, in) and its transpose.
        const stored = weights(outputs * this.size);
        this.bias = weights(outputs);
        this.weight = new Float64Array(stored.length);
        this.transposed = new Float64Array(stored.length);
        for (let o = 0; o < outputs; o++)
          for (let i = 0; i < inputs; i++)
            for (let t = 0; t < taps; t++) {
              const value = stored[(o * inputs + i) * taps + t], c = t * inputs + i;
              this.weight[o * this.size + c] = value;
              this.transposed[c * outputs + o] = value;
            }
        this.patches = new Float64Array(this.pixels * this.size);
        this.inputGradient = new Float64Array(height * width * inputs);
      }

      /** input (height * width, inputs) -> out (pixels, outputs). */
      forward(input, out) {
        const { from, inputs, outputs, patches, bias, pixels } = this;
        for (let p = 0, q = 0; p < from.length; p++)
          for (let i = from[p], end = i + inputs; i < end; i++) patches[q++] = input[i];
        for (let p = 0, q = 0; p < pixels; p++)
          for (let o = 0; o < outputs; o++) out[q++] = bias[o];
        multiply(patches, this.weight, out, pixels, outputs, this.size, true);
        return out;
      }

      /** dE/d(output) -> dE/d(input): a repeated border pixel collects all its copies. */
      backward(gradient) {
        const { from, inputs, patches, inputGradient: back } = this;
        multiply(gradient, this.transposed, patches, this.pixels, this.size, this.outputs);
        back.fill(0);
        for (let p = 0, q = 0; p < from.length; p++)
          for (let i = from[p], end = i + inputs; i < end; i++) back[i] += patches[q++];
        return back;
      }
    }

    /** SiLU(h) into `out`, and its derivative at h into `slope`. */
    function silu(h, out, slope) {
      for (let i = 0; i < h.length; i++) {
        const s = sigmoid(h[i]);
        out[i] = h[i] * s;
        slope[i] = s * (1 + h[i] * (1 - s));
      }
      return out;
    }

    class PatchEnergy {
      /** model: `config` and `weights` (base64) as ebmbook.browser writes them. */
      constructor(model, height = model.size, width = model.size) {
        const { channels, width: half, blocks, coordinates, stride } = model.config;
        Object.assign(this, { config: model.config, channels, height, width });
        const all = decodeFloats(model.weights);
        let at = 0;
        const weights = (n) => all.subarray(at, (at += n));
        const halvings = Math.log2(stride), wide = 2 * half;
        this.inputs = channels + (coordinates ? 2 : 0);
        const conv = (inputs, outputs, kernel, step, dilation, h, w) =>
          new Conv({ inputs, outputs, kernel, stride: step, dilation }, weights, h, w);
        const state = (n) => ({
          h: new Float64Array(n), a: new Float64Array(n), slope: new Float64Array(n),
        });

        this.downs = []; // each with the state after it
        let h = height, w = width, inputs = this.inputs;
        for (let i = halvings - 1; i >= 0; i--) {
          const layer = conv(inputs, Math.max(1, wide >> i), 4, 2, 1, h, w);
          this.downs.push({ layer, ...state(layer.pixels * layer.outputs) });
          ({ height: h, width: w, outputs: inputs } = layer);
        }
        const pixels = h * w, n = pixels * wide;
        const series = (make) => Array.from({ length: blocks }, (_, i) => make(i));
        const mixers = series((i) => conv(wide, wide, 3, 1, i === 0 ? 1 : 2, h, w));
        const outs = series(() => conv(wide, wide, 1, 1, 1, h, w));
        this.blocks = mixers.map((mixer, i) => ({
          mixer, out: outs[i], inner: state(n), end: state(n),
        }));
        this.head = weights(wide);
        this.headBias = weights(1)[0];
        if (at !== all.length) throw new Error(`${all.length} weights, ${at} are used`);

        this.mapHeight = h;
        this.mapWidth = w;
        this.map = new Float64Array(pixels); // e_p
        this.logits = new Float64Array(pixels); // f_p
        this.input = new Float64Array(height * width * this.inputs);
        this.gradient = new Float64Array(channels * height * width);
        this.seed = new Float64Array(n); // dE/dh at the end of the chain
        if (coordinates)
          for (let y = 0, q = 0; y < height; y++)
            for (let x = 0; x < width; x++, q += this.inputs) {
              this.input[q + channels] = (2 * y) / (height - 1) - 1;
              this.input[q + channels + 1] = (2 * x) / (width - 1) - 1;
            }
      }

      /** x (channels, height, width) in [0, 1], flat -> E(x). The map is in `.map`. */
      energy(x) {
        this._prepare(x);
        let a = this.input, h = null;
        for (const down of this.downs) {
          h = down.layer.forward(a, down.h);
          a = silu(h, down.a, down.slope);
        }
        for (const { mixer, out, inner, end } of this.blocks) {
          mixer.forward(a, inner.h);
          silu(inner.h, inner.a, inner.slope);
          out.forward(inner.a, end.h);
          for (let i = 0; i < h.length; i++) end.h[i] += h[i];
          h = end.h;
          a = silu(h, end.a, end.slope);
        }
        let total = 0;
        const wide = this.head.length;
        for (let p = 0, q = 0; p < this.map.length; p++) {
          let f = this.headBias;
          for (let c = 0; c < wide; c++) f += a[q++] * this.head[c];
          this.logits[p] = f;
          this.map[p] = softplus(f);
          total += this.map[p];
        }
        return total;
      }

      /** E(x) and dE/dx: { energy, map (h, w), gradient (channels, height, width) }. */
      energyAndGradient(x) {
        const energy = this.energy(x);
        const { head, seed, logits } = this, wide = head.length;
        const last = [...this.downs, ...this.blocks.map((b) => b.end)].at(-1);
        for (let p = 0, q = 0; p < logits.length; p++) {
          const s = sigmoid(logits[p]); // the derivative of softplus
          for (let c = 0; c < wide; c++, q++) seed[q] = s * head[c] * last.slope[q];
        }
        let g = seed;
        for (let b = this.blocks.length - 1; b >= 0; b--) {
          const { mixer, out, inner } = this.blocks[b];
          const before = b > 0 ? this.blocks[b - 1].end : this.downs.at(-1);
          const through = out.backward(g);
          for (let i = 0; i < through.length; i++) through[i] *= inner.slope[i];
          const back = mixer.backward(through);
          for (let i = 0; i < g.length; i++) g[i] += back[i] * before.slope[i];
        }
        for (let d = this.downs.length - 1; d >= 0; d--) {
          g = this.downs[d].layer.backward(g);
          if (d > 0) for (let i = 0; i < g.length; i++) g[i] *= this.downs[d - 1].slope[i];
        }
        return { energy, map: this.map, gradient: this._unprepare(g) };
      }

      /** Mean 0 and variance 1 over the image, then opponent colors, channels last. */
      _prepare(x) {
        const { channels, inputs, input, config } = this, n = this.gradient.length;
        if (x.length !== n) throw new Error(`${n} numbers are expected, got ${x.length}`);
        let mean = 0, square = 0;
        for (let i = 0; i < n; i++) mean += x[i];
        mean /= n;
        for (let i = 0; i < n; i++) square += (x[i] - mean) ** 2;
        this.image = x;
        this.shift = config.normalize ? mean : 0.5;
        this.scale = config.normalize ? Math.sqrt(square / n + EPS) : 0.5;
        const area = n / channels;
        for (let p = 0, q = 0; p < area; p++, q += inputs) {
          for (let c = 0; c < channels; c++)
            input[q + c] = (x[c * area + p] - this.shift) / this.scale;
          if (channels !== 3) continue;
          const r = input[q], g = input[q + 1], b = input[q + 2];
          input[q] = LUMINANCE * (r + g + b);
          input[q + 1] = RED_GREEN * (r - g);
          input[q + 2] = BLUE_YELLOW * (2 * b - r - g);
        }
      }

      /** The backward of `_prepare`: (pixels, inputs) -> (channels, height, width). */
      _unprepare(back) {
        const { channels, inputs, input, gradient, image, shift, scale } = this;
        const n = gradient.length, area = n / channels;
        let mean = 0, along = 0; // means of dE/dy and of y dE/dy; y: standardized image
        for (let p = 0, q = 0; p < area; p++, q += inputs) {
          for (let c = 0; c < channels; c++) along += input[q + c] * back[q + c];
          if (channels === 3) {
            const l = LUMINANCE * back[q], rg = RED_GREEN * back[q + 1];
            const by = BLUE_YELLOW * back[q + 2];
            gradient[p] = l + rg - by;
            gradient[area + p] = l - rg - by;
            gradient[2 * area + p] = l + 2 * by;
          } else for (let c = 0; c < channels; c++) gradient[c * area + p] = back[q + c];
        }
        for (let i = 0; i < n; i++) mean += gradient[i] / n;
        along /= n;
        if (!this.config.normalize) mean = along = 0;
        for (let i = 0; i < n; i++)
          gradient[i] = (gradient[i] - mean - (along * (image[i] - shift)) / scale) / scale;
        return gradient;
      }
    }

    // ---------------------------------------------- maps and scores, as in ebmlib.scoring

    /** The norm of the gradient over the channels: (channels, pixels) -> (pixels). */
    function channelNorm(gradient, channels) {
      const area = gradient.length / channels, out = new Float64Array(area);
      for (let i = 0; i < gradient.length; i++) out[i % area] += gradient[i] ** 2;
      return out.map(Math.sqrt);
    }

    /** A Gaussian of `sigma` pixels, borders mirrored, cut off at 3 sigma. */
    function smooth(map, height, width, sigma) {
      if (!(sigma > 0)) return map;
      const reach = Math.floor(3 * sigma + 0.5);
      const kernel = Array.from({ length: 2 * reach + 1 }, (_, i) =>
        Math.exp(-((i - reach) ** 2) / (2 * sigma * sigma)),
      );
      const sum = kernel.reduce((a, b) => a + b, 0);
      const mirror = (i, n) => {
        const m = ((i % (2 * n)) + 2 * n) % (2 * n);
        return m < n ? m : 2 * n - 1 - m;
      };
      const along = (from, lines, n, line, step) => {
        const out = new Float64Array(from.length);
        const at = Int32Array.from({ length: n + 2 * reach }, (_, i) => mirror(i - reach, n) * step);
        for (let l = 0; l < lines; l++)
          for (let i = 0; i < n; i++) {
            let total = 0;
            for (let k = 0; k < kernel.length; k++) total += kernel[k] * from[l * line + at[i + k]];
            out[l * line + i * step] = total / sum;
          }
        return out;
      };
      return along(along(map, width, height, 1, width), height, width, width, 1);
    }

    /** A map of cells at the size of the image: bilinear between the cells' centers. */
    function upsample(map, rows, columns, height, width) {
      const place = (i, n, cells) => {
        const at = Math.max(((i + 0.5) * cells) / n - 0.5, 0), low = Math.floor(at);
        return [low, Math.min(low + 1, cells - 1), at - low];
      };
      const out = new Float64Array(height * width);
      for (let y = 0; y < height; y++) {
        const [top, bottom, v] = place(y, height, rows);
        for (let x = 0; x < width; x++) {
          const [left, right, u] = place(x, width, columns);
          const row = (r) => (1 - u) * map[r * columns + left] + u * map[r * columns + right];
          out[y * width + x] = (1 - v) * row(top) + v * row(bottom);
        }
      }
      return out;
    }

    /** Gradient map and patch energies as one: gradient^share patches^(1 - share). */
    function weighted(gradient, patches, share) {
      return gradient.map((g, i) => g ** share * patches[i] ** (1 - share));
    }

    /** Index of the largest value. */
    function argmax(values) {
      let best = 0;
      for (let i = 1; i < values.length; i++) if (values[i] > values[best]) best = i;
      return best;
    }

    /** Share of `values` (sorted upward) that lie below `value`. */
    function shareBelow(values, value) {
      let low = 0, high = values.length;
      while (low < high) {
        const middle = (low + high) >> 1;
        if (values[middle] < value) low = middle + 1;
        else high = middle;
      }
      return low / values.length;
    }

    /** The answer to `{ image, changed }`; `changed` comes back as it is. */
    function respond(energy, { image, changed }) {
      const { energy: value, map, gradient } = energy.energyAndGradient(image);
      return { energy: value, map: map.slice(), gradient: gradient.slice(), changed };
    }

    return {
      PatchEnergy, argmax, bits, channelNorm, decodeBytes, decodeFloats, respond, shareBelow,
      smooth, upsample, weighted,
    };
  }

  // A worker is started from this text: a page read from file:// cannot fetch scripts.
  return { ...patchMath(), source: patchMath.toString() };
})();
if (typeof module !== "undefined") module.exports = PatchMath;
