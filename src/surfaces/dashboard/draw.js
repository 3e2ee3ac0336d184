// Draws with plain SVG. Texts of others go in as text nodes alone.

const SPACE = "http://www.w3.org/2000/svg";

export function svg(name, attributes = {}, ...children) {
  const node = document.createElementNS(SPACE, name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  node.append(...children);
  return node;
}

export function element(name, attributes = {}, ...children) {
  const node = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  node.append(...children);
  return node;
}

export function bytes(count) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
  let at = 0;
  while (count >= 1024 && at < units.length - 1) { count /= 1024; at += 1; }
  return `${at === 0 || count >= 100 ? Math.round(count) : count.toFixed(1)} ${units[at]}`;
}

export const rate = (count) => `${bytes(count)}/s`;

/** A bar of shares; each part is [class, bytes]. `total` may be more than their sum. */
export function bar(node, parts, total) {
  if (node.children.length !== parts.length) node.replaceChildren(...parts.map(() => element("span")));
  parts.forEach(([kind, count], at) => {
    node.children[at].className = kind;
    node.children[at].style.width = total > 0 ? `${(100 * count) / total}%` : "0";
  });
}

const ROUND = 2 * Math.PI * 42;

/** A ring that is `percent` full; null: nothing to tell. */
export function ring(percent) {
  const text = svg("text", { x: 50, y: 58 });
  const arc = svg("circle", { class: "arc", cx: 50, cy: 50, r: 42, fill: "none", "stroke-width": 9, transform: "rotate(-90 50 50)", "stroke-dasharray": ROUND });
  const node = svg("svg", { viewBox: "0 0 100 100", "aria-hidden": "true" },
    svg("circle", { class: "track", cx: 50, cy: 50, r: 42, fill: "none", "stroke-width": 9 }), arc, text);
  node.tell = (now) => {
    arc.setAttribute("stroke-dashoffset", ROUND * (1 - (now ?? 0) / 100));
    // A round cap shows a dot even for nothing.
    arc.setAttribute("visibility", now > 0 ? "visible" : "hidden");
    text.textContent = now === null ? "no traffic" : `${Math.round(now)} %`;
    text.setAttribute("class", now === null ? "none" : "");
    text.setAttribute("y", now === null ? 55 : 58);
  };
  node.tell(percent);
  return node;
}

/** The next "round" number: 1, 2 or 5 times a power of two's thousand. */
function ceiling(value) {
  let unit = 1024;
  while (unit * 1024 <= value) unit *= 1024;
  for (const step of [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000]) if (unit * step >= value) return unit * step;
  return unit * 1024;
}

const RECEIVED = ["lan", "group", "internet", "http"];

/** Rates over time: what came in above the line, what was sent below. Returns how to find a moment. */
export function plot(node, samples, now, span, chosen) {
  const width = Math.max(280, node.clientWidth), height = 210, left = 64, right = 8, top = 10, bottom = 22;
  const rows = samples.filter((sample) => sample.at > now - span).map((sample) => ({
    from: Math.max(sample.at - sample.seconds, now - span), to: sample.at,
    lan: sample.from_lan / sample.seconds, group: sample.from_group / sample.seconds,
    internet: sample.from_internet / sample.seconds, http: sample.from_http / sample.seconds,
    sent: sample.to_peers / sample.seconds,
  }));
  const most = (measure) => rows.reduce((max, row) => Math.max(max, measure(row)), 0);
  const up = ceiling(most((row) => RECEIVED.reduce((sum, kind) => sum + row[kind], 0)));
  const sent = most((row) => row.sent);
  const down = sent > 0 ? ceiling(sent) : 0;
  const x = (at) => left + ((at - (now - span)) / span) * (width - left - right);
  const zero = top + (height - top - bottom) * (up / (up + down));
  const y = (value) => zero - ((zero - top) * value) / up;
  const below = (value) => zero + ((height - bottom - zero) * value) / (down || 1);
  const picture = svg("svg", { viewBox: `0 0 ${width} ${height}`, height, "aria-hidden": "true" });
  const label = (text, at) => svg("text", { x: left - 8, y: at + 4, "text-anchor": "end" }, text);
  for (const share of [0.5, 1]) {
    picture.append(svg("line", { class: "grid", x1: left, x2: width - right, y1: y(up * share), y2: y(up * share) }), label(rate(up * share), y(up * share)));
  }
  if (down > 0) picture.append(label(rate(down), height - bottom));
  const base = rows.map(() => 0);
  for (const kind of RECEIVED) {
    let path = "";
    rows.forEach((row, at) => {
      if (row[kind] > 0) {
        const low = y(base[at]), high = y(base[at] + row[kind]);
        path += `M${x(row.from).toFixed(1)} ${low.toFixed(1)}V${high.toFixed(1)}H${(x(row.to) + 0.3).toFixed(1)}V${low.toFixed(1)}Z`;
      }
      base[at] += row[kind];
    });
    if (path) picture.append(svg("path", { class: kind, d: path }));
  }
  const path = rows.filter((row) => row.sent > 0)
    .map((row) => `M${x(row.from).toFixed(1)} ${zero.toFixed(1)}V${below(row.sent).toFixed(1)}H${(x(row.to) + 0.3).toFixed(1)}V${zero.toFixed(1)}Z`).join("");
  if (path) picture.append(svg("path", { class: "sent", d: path }));
  picture.append(svg("line", { class: "zero", x1: left, x2: width - right, y1: zero, y2: zero }), label("0", zero));
  const minutes = Math.round(span / 60);
  for (const share of [0, 0.5, 1]) {
    const words = share === 1 ? "now" : `${minutes * (1 - share)} min ago`;
    picture.append(svg("text", { x: left + share * (width - left - right), y: height - 4, "text-anchor": ["start", "middle", "end"][share * 2] }, words));
  }
  const row = chosen === null ? undefined : rows[rows.length - 1 - chosen];
  if (row) picture.append(svg("line", { class: "cursor", x1: x((row.from + row.to) / 2), x2: x((row.from + row.to) / 2), y1: top, y2: height - bottom }));
  node.replaceChildren(picture);
  const near = (pixel) => {
    const at = now - span + ((pixel - left) / (width - left - right)) * span;
    const found = rows.findIndex((candidate) => candidate.to >= at);
    return found < 0 ? 0 : rows.length - 1 - found;
  };
  return { row, count: rows.length, near };
}

/** The pieces of a content as a grid; each cell is as full as the share of its pieces that are here. */
export function map(node, held, count) {
  const bits = Uint8Array.from(atob(held), (letter) => letter.charCodeAt(0));
  const size = 11, columns = Math.max(8, Math.floor(node.clientWidth / size) || 24);
  const cells = Math.min(count, columns * 6), rows = Math.ceil(cells / columns);
  // Five steps are told apart, and five paths drawn: a cell a node would be many.
  const steps = ["", "", "", "", ""];
  for (let cell = 0; cell < cells; cell += 1) {
    const first = Math.floor((cell * count) / cells), end = Math.floor(((cell + 1) * count) / cells);
    let here = 0;
    for (let piece = first; piece < end; piece += 1) here += (bits[piece >> 3] >> (piece & 7)) & 1;
    const step = here === 0 ? 0 : here === end - first ? 4 : 1 + Math.min(2, Math.floor((3 * here) / (end - first)));
    steps[step] += `M${(cell % columns) * size} ${Math.floor(cell / columns) * size}h9v9h-9z`;
  }
  const paths = steps.map((path, at) => svg("path", { d: path || "M0 0", class: at === 0 ? "off" : "on", "fill-opacity": at === 0 ? 1 : [0, 0.3, 0.5, 0.72, 1][at] }));
  node.replaceChildren(svg("svg", { viewBox: `0 0 ${columns * size} ${rows * size}`, height: rows * size, preserveAspectRatio: "xMinYMin", "aria-hidden": "true" }, ...paths));
  node.dataset.cells = cells;
}

const RINGS = { host: [0, "lan"], site: [1, "lan"], group: [2, "group"], internet: [3, "internet"] };

/** Peers around this node, near ones near. `tell` says who is looked at. */
export function graph(node, peers, tell) {
  const focused = node.contains(document.activeElement) ? document.activeElement.dataset.peer : null;
  const picture = svg("svg", { viewBox: "-170 -130 340 260" });
  const used = [...new Set(peers.map((peer) => RINGS[peer.scope][0]))].sort();
  const radius = (scope) => used.length < 2 ? 92 : 52 + (64 / (used.length - 1)) * used.indexOf(RINGS[scope][0]);
  const scopes = Object.keys(RINGS).filter((scope) => peers.some((peer) => peer.scope === scope));
  for (const scope of scopes) picture.append(svg("ellipse", { class: "ring", rx: radius(scope) * 1.3, ry: radius(scope) }));
  const most = peers.reduce((max, peer) => Math.max(max, peer.bytes_received + peer.bytes_sent), 1);
  const edges = svg("g"), dots = svg("g", { role: "list" });
  for (const scope of scopes) {
    const ring = peers.filter((peer) => peer.scope === scope);
    ring.forEach((peer, at) => {
      const angle = (2 * Math.PI * (at + 0.25 + 0.37 * RINGS[scope][0])) / ring.length - Math.PI / 2;
      const [x, y] = [Math.cos(angle) * radius(scope) * 1.3, Math.sin(angle) * radius(scope)].map((value) => value.toFixed(1));
      const share = (peer.bytes_received + peer.bytes_sent) / most;
      edges.append(svg("line", { class: share > 0 ? "edge active" : "edge", x1: 0, y1: 0, x2: x, y2: y, "stroke-width": 1 + 5 * Math.sqrt(share) }));
      const words = `${peer.address}, ${peer.scope}: received ${bytes(peer.bytes_received)}, sent ${bytes(peer.bytes_sent)}, round trip ${(peer.round_trip_seconds * 1000).toFixed(1)} ms, ${peer.agent}`;
      const dot = svg("circle", { class: `peer ${RINGS[scope][1]}`, cx: x, cy: y, r: 6 + 5 * Math.sqrt(share), tabindex: -1, role: "listitem", "aria-label": words, "data-peer": peer.peer_id }, svg("title", {}, words));
      dot.addEventListener("focus", () => tell(words));
      dot.addEventListener("click", () => dot.focus());
      dots.append(dot);
    });
  }
  picture.append(edges, svg("circle", { class: "self", r: 11 }), dots);
  const all = [...dots.children];
  if (all.length > 0) all[0].setAttribute("tabindex", 0);
  dots.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    const at = all.indexOf(document.activeElement);
    if (!step || at < 0) return;
    event.preventDefault();
    const next = all[(at + step + all.length) % all.length];
    all.forEach((dot) => dot.setAttribute("tabindex", dot === next ? 0 : -1));
    next.focus();
  });
  node.replaceChildren(picture);
  if (focused) all.find((dot) => dot.dataset.peer === focused)?.focus();
}
