// The mathematics of "Choose a threshold": counts, curves and areas, with the definitions
// of ebmlib.metrics. No DOM: the tests run this file in Node. A sample is flagged when its
// score is at least the threshold; only the order of the scores matters for the areas.
const ThresholdMath = (() => {
  "use strict";

  const count = (flags) => flags.reduce((sum, flag) => sum + (flag ? 1 : 0), 0);

  /** { tp, fp, fn, tn, fpr, recall, precision } of flagging score >= threshold.
   * labels: true or 1 = anomalous. precision is NaN where nothing is flagged. */
  function confusion(scores, labels, threshold) {
    let tp = 0, fp = 0, fn = 0, tn = 0;
    for (let i = 0; i < scores.length; i++) {
      const flagged = scores[i] >= threshold;
      if (labels[i]) { if (flagged) tp++; else fn++; } else if (flagged) fp++; else tn++;
    }
    return { tp, fp, fn, tn, fpr: fp / (fp + tn), recall: tp / (tp + fn), precision: tp / (tp + fp) };
  }

  /** Counts at each distinct score from high to low; tied scores form one step. */
  function countsByThreshold(scores, labels) {
    const order = Array.from(scores, (_, i) => i).sort((i, j) => scores[j] - scores[i]);
    const steps = [];
    let tp = 0, fp = 0;
    order.forEach((i, k) => {
      if (labels[i]) tp++; else fp++;
      if (k + 1 === order.length || scores[order[k + 1]] !== scores[i]) steps.push({ threshold: scores[i], tp, fp });
    });
    return steps;
  }

  /** Every point of the ROC curve, from "nothing is flagged" on: { fpr, recall, thresholds }. */
  function rocCurve(scores, labels) {
    const steps = [{ threshold: Infinity, tp: 0, fp: 0 }, ...countsByThreshold(scores, labels)];
    const positive = count(labels), negative = labels.length - positive;
    return {
      fpr: steps.map((s) => s.fp / negative),
      recall: steps.map((s) => s.tp / positive),
      thresholds: steps.map((s) => s.threshold),
    };
  }

  /** Every point of the precision-recall curve: { recall, precision, thresholds }. */
  function prCurve(scores, labels) {
    const steps = countsByThreshold(scores, labels), positive = count(labels);
    return {
      recall: steps.map((s) => s.tp / positive),
      precision: steps.map((s) => s.tp / (s.tp + s.fp)),
      thresholds: steps.map((s) => s.threshold),
    };
  }

  /** Area under the ROC curve by the trapezoid rule, which counts ties half. */
  function auroc(scores, labels) {
    const { fpr, recall } = rocCurve(scores, labels);
    let area = 0;
    for (let i = 1; i < fpr.length; i++) area += (fpr[i] - fpr[i - 1]) * (recall[i] + recall[i - 1]) / 2;
    return area;
  }

  /** Area under the precision-recall steps: sum_k (R_k - R_{k-1}) P_k. */
  function averagePrecision(scores, labels) {
    const { recall, precision } = prCurve(scores, labels);
    return recall.reduce((sum, r, k) => sum + (r - (k ? recall[k - 1] : 0)) * precision[k], 0);
  }

  /** The ceil((n + 1)(1 - rate))-th smallest held-out normal score (the largest if there
   * are too few): a new normal image exceeds it with probability at most `rate`. */
  function conformalThreshold(heldOut, rate) {
    const sorted = Array.from(heldOut).sort((a, b) => a - b);
    const rank = Math.ceil((sorted.length + 1) * (1 - rate));
    return sorted[Math.min(rank, sorted.length) - 1];
  }

  /** What a threshold means on a line that makes `parts` a shift, `defective` of them bad:
   * { falseAlarms, found, missed, precision }, expected numbers. */
  function shift({ fpr, recall }, parts, defective) {
    const bad = parts * defective, falseAlarms = fpr * (parts - bad), found = recall * bad;
    return { falseAlarms, found, missed: bad - found, precision: found / (found + falseAlarms) };
  }

  /** Counts of `values` between rising edges; a value on an edge belongs to the bin above,
   * values outside to the first or last bin. */
  function histogram(values, edges) {
    const counts = new Array(edges.length - 1).fill(0);
    for (const v of values) {
      let bin = 0;
      while (bin < counts.length - 1 && v >= edges[bin + 1]) bin++;
      counts[bin]++;
    }
    return counts;
  }

  // --- Maps: pixels in rising bins, `normal` counts per bin, `regions` a list of counts ---

  /** At each bin's lower edge (flagged: pixels of this bin and above), from the highest
   * edge down, beginning where nothing is flagged: { fpr, pro, recall, bins }. */
  function proCurve(normal, regions) {
    const bins = normal.length, total = normal.reduce((a, b) => a + b, 0);
    const sizes = regions.map((r) => r.reduce((a, b) => a + b, 0));
    const pixels = sizes.reduce((a, b) => a + b, 0);
    const curve = { fpr: [0], pro: [0], recall: [0], bins: [bins] };
    const seen = regions.map(() => 0);
    let alarms = 0;
    for (let bin = bins - 1; bin >= 0; bin--) {
      alarms += normal[bin];
      regions.forEach((r, k) => { seen[k] += r[bin]; });
      curve.fpr.push(alarms / total);
      curve.pro.push(seen.reduce((sum, n, k) => sum + n / sizes[k], 0) / regions.length);
      curve.recall.push(seen.reduce((a, b) => a + b, 0) / pixels);
      curve.bins.push(bin);
    }
    return curve;
  }

  /** Area under the PRO curve up to `limit`, divided by it; the last piece is cut there by
   * linear interpolation. Exact for the binned scores (pixels of one bin are ties). */
  function auPro({ fpr, pro }, limit = 0.3) {
    let area = 0;
    for (let i = 1; i < fpr.length && fpr[i - 1] < limit; i++) {
      const end = Math.min(fpr[i], limit), run = fpr[i] - fpr[i - 1];
      const at = run > 0 ? pro[i - 1] + (pro[i] - pro[i - 1]) * (end - fpr[i - 1]) / run : pro[i];
      area += (end - fpr[i - 1]) * (pro[i - 1] + at) / 2;
    }
    return area / limit;
  }

  /** Share of a region's pixels in this bin and above. */
  function covered(region, bin) {
    let all = 0, found = 0;
    region.forEach((n, k) => { all += n; if (k >= bin) found += n; });
    return found / all;
  }

  // --- The saved run's compact forms ----------------------------------------------------

  /** Pairs [bin, count] as a list of `bins` counts. */
  function dense(pairs, bins) {
    const counts = new Array(bins).fill(0);
    for (const [bin, n] of pairs) counts[bin] = n;
    return counts;
  }

  /** Bytes to bits, the highest bit of each byte first. */
  function bits(packed) {
    const made = new Uint8Array(8 * packed.length);
    for (let i = 0; i < made.length; i++) made[i] = (packed[i >> 3] >> (7 - (i & 7))) & 1;
    return made;
  }

  /** The pixels of a mask (n x n) that touch a pixel outside it. */
  function outline(mask, n) {
    const at = (row, column) => row >= 0 && row < n && column >= 0 && column < n && mask[row * n + column] === 1;
    return Array.from(mask, (on, i) => {
      const row = Math.floor(i / n), column = i % n;
      return on === 1 && !(at(row - 1, column) && at(row + 1, column) && at(row, column - 1) && at(row, column + 1));
    });
  }

  return { confusion, rocCurve, prCurve, auroc, averagePrecision, conformalThreshold, shift,
    histogram, proCurve, auPro, covered, dense, bits, outline };
})();
if (typeof module !== "undefined") module.exports = ThresholdMath;
