// Pictures: the strip of segments, the recall map, and bytes against tokens.

const HUES = [205, 25, 145, 285, 350, 95, 55, 235, 175, 320];

export function hue(index) {
  return HUES[index % HUES.length];
}

function dark() {
  return matchMedia("(prefers-color-scheme: dark)").matches;
}

export function colour(index, strong = false) {
  const light = dark() ? (strong ? 72 : 42) : (strong ? 36 : 68);
  return `hsl(${hue(index)} ${strong ? 75 : 38}% ${light}%)`;
}

// A canvas of so many CSS pixels in height, sharp on every screen; its context in CSS pixels.
function prepare(canvas, height) {
  const width = canvas.clientWidth || 300;
  const ratio = devicePixelRatio || 1;
  canvas.width = Math.round(width * ratio);
  canvas.height = Math.round(height * ratio);
  canvas.style.height = `${height}px`;
  const context = canvas.getContext("2d");
  context.scale(ratio, ratio);
  context.clearRect(0, 0, width, height);
  return [context, width];
}

// segments: [{ document }], weights: Map segment -> weight, at: the one under the cursor.
export function strip(canvas, segments, weights, at) {
  const height = 44;
  const [context, width] = prepare(canvas, height);
  if (!segments.length) return;
  const step = width / segments.length;
  segments.forEach((segment, index) => {
    context.fillStyle = colour(segment.document);
    context.fillRect(index * step, 14, Math.max(step - (step > 4 ? 1 : 0), 0.5), height - 14);
  });
  segments.forEach((segment, index) => {
    const weight = weights.get(segment.number);
    if (weight === undefined) return;
    context.fillStyle = colour(segment.document, true);
    const wide = Math.max(step, 4);
    const tall = 10 + 34 * Math.sqrt(Math.min(weight, 1));
    context.fillRect(index * step + step / 2 - wide / 2, height - tall, wide, tall);
  });
  if (at >= 0) {
    context.strokeStyle = dark() ? "#fff" : "#000";
    context.lineWidth = 2;
    context.strokeRect(at * step, 13, Math.max(step, 3), height - 14);
  }
}

// rows: Map segment -> weight of each question, the newest first.
export function map(canvas, segments, rows) {
  const tall = 14;
  const [context, width] = prepare(canvas, Math.max(rows.length, 1) * tall);
  const step = width / Math.max(segments.length, 1);
  rows.forEach((weights, row) => {
    segments.forEach((segment, index) => {
      const weight = weights.get(segment.number);
      if (!weight) return;
      context.globalAlpha = Math.max(0.15, Math.min(1, Math.sqrt(weight)));
      context.fillStyle = colour(segment.document, true);
      context.fillRect(index * step, row * tall + 1, Math.max(step, 3), tall - 2);
    });
  });
  context.globalAlpha = 1;
}

export function size(bytes) {
  const units = ["B", "KB", "MB", "GB", "TB"];
  let unit = 0;
  while (bytes >= 1000 && unit < units.length - 1) {
    bytes /= 1000;
    unit += 1;
  }
  return `${bytes >= 100 || unit === 0 ? Math.round(bytes) : bytes.toFixed(1)} ${units[unit]}`;
}

// points: [{ tokens, memory, cache }] in bytes, by tokens.
export function bytes(svg, points) {
  const last = points.at(-1);
  const most = Math.max(last.cache, last.memory, 1);
  const x = (tokens) => 8 + (304 * tokens) / Math.max(last.tokens, 1);
  const y = (value) => 96 - (84 * value) / most;
  const line = (name) => points.map((point) => `${x(point.tokens).toFixed(1)},${y(point[name]).toFixed(1)}`).join(" ");
  const make = (name, attributes, text) => {
    const node = document.createElementNS("http://www.w3.org/2000/svg", name);
    Object.entries(attributes).forEach(([key, value]) => node.setAttribute(key, value));
    if (text) node.textContent = text;
    return node;
  };
  const style = getComputedStyle(document.documentElement);
  const accent = style.getPropertyValue("--accent"), warm = style.getPropertyValue("--warm");
  svg.replaceChildren(
    make("line", { x1: 8, x2: 312, y1: 96, y2: 96, stroke: style.getPropertyValue("--quiet") }),
    make("polyline", { points: line("cache"), fill: "none", stroke: warm, "stroke-width": 2, "stroke-dasharray": "5 3" }),
    make("polyline", { points: line("memory"), fill: "none", stroke: accent, "stroke-width": 2.5 }),
    make("text", { x: 10, y: 12 }, `keys and values of full attention (dashed): ${size(last.cache)}`),
    make("text", { x: 10, y: 24 }, `this memory: ${size(last.memory)}`),
    make("text", { x: 312, y: 107, "text-anchor": "end" }, `${last.tokens.toLocaleString("en")} tokens`),
  );
}
