"use strict";
(() => {
  const records = JSON.parse(document.getElementById("records").textContent);
  const canvas = document.getElementById("canvas"), detail = document.getElementById("detail");
  const colours = { queue: "#c9c9c9", prefill: "#e69f00", decode: "#56b4e9", mixed: "#009e73", empty: "#eee" };
  const MARGIN = 70, STEPS = 64, GAP = 14, AXIS = 22;

  const requests = records.requests.map(([id, replica, lane, start, end, phases, outcome, prompt, output, cached, preemptions, tenant]) =>
    ({ id, replica, lane, start, end, phases, outcome, prompt, output, cached, preemptions, tenant }));
  const steps = records.steps.map(([id, replica, kind, start, end, chunks, prompt, decodes, context, waiting, used, total, terms]) =>
    ({ id, replica, kind, start, end, chunks, prompt, decodes, context, waiting, used, total, terms }));
  if (!requests.length && !steps.length) {
    detail.textContent = "Nothing ran in this window.";
    canvas.remove();
    return;
  }

  // Of each replica a band of steps and a band of lanes, from top to bottom.
  const replicas = [...new Set([...steps, ...requests].map(row => row.replica))]
    .sort((a, b) => (a ?? Infinity) - (b ?? Infinity));
  const most = steps.reduce((most, s) => Math.max(most, s.decodes + s.chunks), 1);
  const count = requests.reduce((lanes, r) => lanes.set(r.replica, Math.max(lanes.get(r.replica) ?? 0, r.lane + 1)), new Map());
  const lanes = [...count.values()].reduce((sum, n) => sum + n, 0);
  const LANE = lanes > 200 ? 3 : lanes > 60 ? 6 : 12;
  const bands = new Map();
  let height = AXIS;
  for (const replica of replicas) {
    const of = steps.some(s => s.replica === replica) ? STEPS : 0;
    bands.set(replica, { steps: height, lanes: height + of + (of && 6), end: height + of + (of && 6) + (count.get(replica) ?? 0) * LANE });
    height = bands.get(replica).end + GAP;
  }

  const all = [...steps, ...requests];
  const whole = { from: all.reduce((t, r) => Math.min(t, r.start), Infinity), until: all.reduce((t, r) => Math.max(t, r.end), 0) };
  whole.from = Math.max(whole.from, records.from);
  whole.until = Math.min(whole.until, records.until);
  const shown = { ...whole };

  const width = () => canvas.clientWidth - MARGIN;
  const x = t => MARGIN + (t - shown.from) / (shown.until - shown.from) * width();
  const time = px => shown.from + (px - MARGIN) / width() * (shown.until - shown.from);
  const ms = nanos => (nanos / 1e6).toLocaleString("en", { maximumFractionDigits: 3 }) + " ms";

  function bar(draw, start, end, y, h, colour) {
    const left = Math.max(x(start), MARGIN), right = Math.min(x(end), MARGIN + width());
    if (right < MARGIN || left > MARGIN + width() || end < shown.from || start > shown.until) return;
    draw.fillStyle = colour;
    draw.fillRect(left, y, Math.max(right - left - (right - left > 4 ? 1 : 0), 0.6), h);
  }

  function paint() {
    const scale = window.devicePixelRatio || 1;
    canvas.style.height = height + "px";
    canvas.width = canvas.clientWidth * scale;
    canvas.height = height * scale;
    const draw = canvas.getContext("2d");
    draw.scale(scale, scale);
    draw.clearRect(0, 0, canvas.clientWidth, height);
    draw.font = "11px system-ui, sans-serif";
    const step = 10 ** Math.ceil(Math.log10((shown.until - shown.from) / 10));
    for (let t = Math.ceil(shown.from / step) * step; t <= shown.until; t += step) {
      draw.fillStyle = "#eee";
      draw.fillRect(x(t), 0, 1, height);
      draw.fillStyle = "#777";
      draw.fillText(step >= 1e8 ? (t / 1e9).toFixed(step >= 1e9 ? 0 : 1) + " s" : (t / 1e6).toFixed(step >= 1e6 ? 0 : 3) + " ms", x(t) + 3, 12);
    }
    for (const [replica, band] of bands) {
      draw.fillStyle = "#222";
      draw.fillText(replica === null ? "no replica" : "replica " + replica, 2, band.steps + 12);
    }
    for (const s of steps) {
      const band = bands.get(s.replica), h = Math.max(2, (s.decodes + s.chunks) / most * STEPS);
      bar(draw, s.start, s.end, band.steps + STEPS - h, h, colours[s.kind]);
    }
    for (const r of requests) {
      const y = bands.get(r.replica).lanes + r.lane * LANE;
      for (const [phase, start, end] of r.phases) bar(draw, start, end, y, LANE - 1, colours[phase]);
    }
  }

  function describe(event) {
    const t = time(event.offsetX), y = event.offsetY;
    for (const [replica, band] of bands) {
      if (y >= band.steps && y < band.lanes) {
        const s = steps.find(s => s.replica === replica && s.start <= t && t < s.end);
        if (!s) continue;
        const parts = s.terms.map((nanos, i) => [nanos, records.terms[i]]).filter(([nanos]) => nanos).sort((a, b) => b[0] - a[0]);
        return `step ${s.id} of replica ${replica}: ${s.kind}, ${ms(s.start)} + ${ms(s.end - s.start)}\n` +
          `${s.decodes} decoding over ${s.context.toLocaleString("en")} tokens, ${s.chunks} prompt chunks of ${s.prompt.toLocaleString("en")} tokens, ${s.waiting} waiting, KV ${s.used.toLocaleString("en")} of ${s.total.toLocaleString("en")}\n` +
          parts.map(([nanos, name]) => `${name} ${ms(nanos)}`).join(", ");
      }
      if (y >= band.lanes && y < band.end) {
        const lane = Math.floor((y - band.lanes) / LANE);
        const r = requests.find(r => r.replica === replica && r.lane === lane && r.start <= t && t < r.end);
        if (!r) continue;
        return `request ${r.id}${r.tenant ? " of " + r.tenant : ""}: ${r.outcome}, ${ms(r.start)} + ${ms(r.end - r.start)}\n` +
          `${r.prompt} tokens in (${r.cached} cached), ${r.output} out, ${r.preemptions} preemptions\n` +
          r.phases.map(([phase, start, end]) => `${phase} ${ms(end - start)}`).join(", ");
      }
    }
    return "\u00a0";
  }

  function show(from, until) {
    const span = Math.min(Math.max(until - from, 1e4), whole.until - whole.from);
    shown.from = Math.min(Math.max(from, whole.from), whole.until - span);
    shown.until = shown.from + span;
    requestAnimationFrame(paint);
  }

  let held = null;
  canvas.addEventListener("pointerdown", event => { held = { at: event.offsetX, ...shown }; canvas.setPointerCapture(event.pointerId); });
  canvas.addEventListener("pointerup", () => { held = null; });
  canvas.addEventListener("pointermove", event => {
    if (held) {
      const moved = (held.at - event.offsetX) / width() * (held.until - held.from);
      show(held.from + moved, held.until + moved);
    } else {
      detail.textContent = describe(event);
    }
  });
  canvas.addEventListener("wheel", event => {
    event.preventDefault();
    const at = time(event.offsetX), factor = Math.exp(event.deltaY / 400);
    show(at - (at - shown.from) * factor, at + (shown.until - at) * factor);
  }, { passive: false });
  canvas.addEventListener("dblclick", () => show(whole.from, whole.until));
  canvas.addEventListener("keydown", event => {
    const span = shown.until - shown.from;
    const moves = { ArrowLeft: [-.1, -.1], ArrowRight: [.1, .1], "+": [.2, -.2], "-": [-.33, .33] };
    const move = moves[event.key];
    if (move) show(shown.from + move[0] * span, shown.until + move[1] * span);
  });
  addEventListener("resize", paint);
  paint();
})();
