// Asks the daemon and fills the page in. It only looks: nothing here changes anything.

import { bar, bytes, element, graph, map, plot, rate, ring } from "/draw.js";

const $ = (id) => document.getElementById(id);
const KINDS = [["lan", "LAN"], ["group", "Group"], ["internet", "Internet peers"], ["http", "HTTP"]];
const SCOPES = [["lan", "this site"], ["group", "group"], ["internet", "Internet"]];
/** Time that the plot of rates shows, seconds. */
const SPAN = 600;
/** Downloads listed, and of these, those whose pieces are asked for at one time. */
const LISTED = 50, MAPPED = 12;
/** Peers drawn, and those listed below. */
const DRAWN = 40, NAMED = 6;
const ORDER = ["downloading", "yielding", "resolving", "waiting", "gated", "paused", "shared", "complete"];
const TONES = { downloading: "busy", complete: "good", waiting: "bad", paused: "wait", gated: "wait", yielding: "wait" };

let rates = { uptime_seconds: 0, samples: [] };
/** The moment of the plot that is read out, counted back from now; null: none. */
let moment = null, moments = 0;
let listed = [];

class Refused extends Error {}

async function ask(path, options) {
  const answer = await fetch(path, { credentials: "same-origin", ...options });
  if (answer.status === 401) throw new Refused();
  if (!answer.ok) throw new Error((await answer.json()).message);
  return answer.status === 204 ? null : answer.json();
}

function trouble(...words) {
  $("trouble").hidden = words.length === 0;
  $("main").classList.toggle("stale", words.length > 0);
  if ($("trouble").textContent !== element("p", {}, ...words).textContent) $("trouble").replaceChildren(...words);
}

function state(word, tone) {
  $("state").textContent = word;
  $("state").className = `chip ${tone}`;
}

/** A number that a test, or whoever is curious, can read exactly. */
function exact(key, count, text = bytes(count)) {
  return element("span", { class: "number", "data-key": key, "data-value": count, title: `${count.toLocaleString("en")} bytes` }, text);
}

function facts(node, rows) {
  node.replaceChildren(...rows.map(([label, value]) => element("div", {}, element("dt", {}, label), element("dd", {}, value))));
}

function legend(node, rows) {
  node.replaceChildren(...rows.map(([kind, ...words]) => element("li", {}, element("i", { class: kind, "aria-hidden": "true" }), element("span", {}, ...words))));
}

function duration(seconds) {
  const [days, hours, minutes] = [Math.floor(seconds / 86400), Math.floor(seconds / 3600) % 24, Math.floor(seconds / 60) % 60];
  return days ? `${days} d ${hours} h` : hours ? `${hours} h ${minutes} min` : minutes ? `${minutes} min` : `${Math.floor(seconds)} s`;
}

/** Keeps one child of `node` for each item, in their order, so that focus and what is unfolded stay. */
function keep(node, items, key, make) {
  const known = new Map([...node.children].map((child) => [child.dataset.key, child]));
  items.forEach((item, at) => {
    const name = String(key(item));
    let child = known.get(name);
    if (!child) { child = make(item); child.dataset.key = name; }
    known.delete(name);
    if (node.children[at] !== child) node.insertBefore(child, node.children[at] ?? null);
    child.fill(item);
  });
  known.forEach((child) => child.remove());
}

// -- what the daemon says of itself

function told(status) {
  const tone = status.paused ? "wait" : "good";
  const running = status.downloads.filter((download) => download.status === "downloading").length;
  state(status.paused ? "downloads paused" : running ? `${running} downloading` : "at rest", status.paused || !running ? tone : "busy");
  $("about").replaceChildren(`Version ${status.version}, mode ${status.mode}, peer ${status.peer_id.slice(-8)}, listening on ${status.listening.map(place).join(", ") || "nothing"}`);
  $("gates").hidden = status.gates.length === 0;
  $("gates").replaceChildren(...status.gates.map((gate) => element("li", {}, element("strong", {}, gate.gate.replaceAll("_", " ")), `: ${gate.effect}. ${gate.reason}.`)));
  const totals = status.totals;
  facts($("totals"), [
    ["From peers", exact("totals.bytes_from_peers", totals.bytes_from_peers)],
    ["Over HTTP", exact("totals.bytes_from_http", totals.bytes_from_http)],
    ["To peers", exact("totals.bytes_to_peers", totals.bytes_to_peers)],
    ["In vain", exact("totals.bytes_wasted", totals.bytes_wasted)],
  ]);
  downloads(status.downloads);
}

/** A multiaddress as people write one. */
function place(address) {
  const [, host, port] = /^\/(?:ip4|ip6|dns)\/([^/]+)\/tcp\/(\d+)/.exec(address) ?? [];
  return host ? `${host.includes(":") ? `[${host}]` : host}:${port}` : address;
}

function downloads(all) {
  const rank = (download) => ORDER.indexOf(download.status);
  listed = [...all].sort((one, two) => rank(one) - rank(two) || two.number - one.number);
  $("downloads-count").textContent = all.length ? `${all.length}` : "";
  $("downloads-none").hidden = all.length > 0;
  $("downloads-more").hidden = all.length <= LISTED;
  $("downloads-more").textContent = `and ${all.length - LISTED} more`;
  keep($("download-list"), listed.slice(0, LISTED), (download) => download.number, card);
}

function card() {
  const name = element("h3"), chip = element("span"), share = element("span", { class: "end number" });
  const strip = element("div", { class: "bar", role: "progressbar", "aria-valuemin": 0, "aria-valuemax": 100 });
  const pieces = element("div", { class: "map", role: "img", hidden: "" });
  const why = element("p", { class: "quiet" }), more = element("dl", { class: "facts" });
  const node = element("li", {}, element("div", { class: "row" }, name, chip, share), strip, pieces, why, element("details", {}, element("summary", {}, "Where its bytes came from"), more));
  node.fill = (download) => {
    const title = download.name || download.wanted;
    name.textContent = title;
    chip.textContent = download.status;
    chip.className = `chip ${TONES[download.status] ?? ""}`;
    const total = download.bytes_total ?? 0;
    const percent = total > 0 ? Math.floor((100 * download.bytes_held) / total) : download.status === "complete" ? 100 : 0;
    share.textContent = download.bytes_total === null ? "" : `${bytes(download.bytes_held)} of ${bytes(total)}, ${percent} %`;
    strip.hidden = download.status === "shared";
    strip.setAttribute("aria-valuenow", percent);
    strip.setAttribute("aria-label", `${title}: held`);
    bar(strip, [["held", download.bytes_already_held], ["lan", download.bytes_from_peers], ["http", download.bytes_from_http]], total);
    why.textContent = download.status === "shared" ? `the same as download ${download.shared_with}` : download.reason ? `${download.reason} (${download.code})` : "";
    why.hidden = !why.textContent;
    pieces.hidden = !["downloading", "yielding", "paused", "gated"].includes(download.status) || !node.dataset.cells;
    const key = (word) => exact(`download.${download.number}.${word}`, download[word]);
    facts(more, [
      ["From peers", key("bytes_from_peers")], ["Over HTTP", key("bytes_from_http")], ["Here before", key("bytes_already_held")],
      ["To peers", key("bytes_to_peers")], ["In vain", key("bytes_wasted")],
      ["Peers", `${download.peers}, ${download.peers_active} of them active`], ["Priority", download.priority],
    ]);
  };
  node.draw = (told) => {
    pieces.hidden = false;
    map(pieces, told.held, told.piece_count);
    node.dataset.cells = pieces.dataset.cells;
    pieces.setAttribute("aria-label", `${told.pieces_held} of ${told.piece_count} pieces are here`);
  };
  return node;
}

async function pieces() {
  const running = listed.filter((download) => download.bytes_total && ["downloading", "yielding", "paused", "gated"].includes(download.status));
  for (const download of running.slice(0, MAPPED)) {
    const found = [...$("download-list").children].find((child) => child.dataset.key === String(download.number));
    // One may have ended since it was listed.
    const told = found && await ask(`/v1/downloads/${download.number}/pieces`).catch((error) => { if (error instanceof Refused) throw error; });
    if (told) found.draw(told);
  }
}

// -- rates

function drawRates() {
  const shown = plot($("rates-plot"), rates.samples, rates.uptime_seconds, SPAN, moment);
  moments = shown.count;
  $("rates-plot").near = shown.near;
  const last = rates.samples.at(-1);
  const sum = (sample) => sample.from_lan + sample.from_group + sample.from_internet + sample.from_http;
  $("rates-now").textContent = last ? `Now ${rate(sum(last) / last.seconds)} in, ${rate(last.to_peers / last.seconds)} out` : "";
  const row = moment === null ? null : shown.row;
  $("rates-said").textContent = row ? `${duration(rates.uptime_seconds - row.to)} ago: ${KINDS.map(([kind, word]) => [word, row[kind]]).concat([["sent", row.sent]]).filter(([, value]) => value > 0).map(([word, value]) => `${word} ${rate(value)}`).join(", ") || "nothing moved"}` : "";
}

function readMoment(now) {
  moment = now === null ? null : Math.max(0, Math.min(moments - 1, now));
  drawRates();
}

$("rates-plot").addEventListener("keydown", (event) => {
  const step = { ArrowLeft: 1, ArrowRight: -1, PageUp: 15, PageDown: -15 }[event.key];
  if (step) { event.preventDefault(); readMoment((moment ?? -Math.sign(step)) + step); }
  if (event.key === "Escape") readMoment(null);
});
$("rates-plot").addEventListener("pointermove", (event) => readMoment($("rates-plot").near(event.clientX - $("rates-plot").getBoundingClientRect().left)));
$("rates-plot").addEventListener("pointerleave", () => readMoment(null));
$("rates-plot").addEventListener("blur", () => readMoment(null));
legend($("rates-legend"), [...KINDS, ["sent", "Sent to peers, below the line"]]);

// -- peers, savings, cache

function peers(all) {
  const most = [...all].sort((one, two) => two.bytes_received + two.bytes_sent - one.bytes_received - one.bytes_sent || (one.peer_id < two.peer_id ? -1 : 1));
  $("peers-count").textContent = all.length > DRAWN ? `${all.length}, the busiest ${DRAWN} are drawn` : all.length ? `${all.length}` : "";
  $("peers-none").hidden = all.length > 0;
  $("peer-graph").hidden = $("peer-legend").hidden = all.length === 0;
  if (all.length === 0) $("peer-said").textContent = "";
  graph($("peer-graph"), most.slice(0, DRAWN), (words) => { $("peer-said").textContent = words; });
  keep($("peer-list"), most.slice(0, NAMED), (peer) => peer.peer_id, () => {
    const node = element("li");
    node.fill = (peer) => {
      const way = `${peer.scope}, ${(peer.round_trip_seconds * 1000).toFixed(1)} ms, dialled ${peer.inbound ? "by it" : "by us"}, ${peer.agent}`;
      const moved = element("span", {}, exact(`peer.${peer.peer_id}.bytes_received`, peer.bytes_received), " in, ", exact(`peer.${peer.peer_id}.bytes_sent`, peer.bytes_sent), " out");
      node.replaceChildren(element("span", {}, peer.address), moved, element("span", { class: "quiet" }, way));
    };
    return node;
  });
}
legend($("peer-legend"), [["self", "this node"], ...SCOPES]);

function perf(told) {
  const rings = [...$("rings").children];
  told.savings.forEach((saved, at) => {
    const words = saved.days === 1 ? "today" : `${saved.days} days`;
    if (!rings[at]) {
      const picture = ring(null);
      rings[at] = element("li", {}, picture, element("div", {}, words), element("div", { class: "quiet" }), element("div", { class: "quiet" }));
      rings[at].picture = picture;
      $("rings").append(rings[at]);
    }
    rings[at].picture.tell(saved.percent);
    const percent = saved.percent === null ? "nothing came in" : `${saved.percent.toFixed(1)} per cent saved`;
    rings[at].setAttribute("aria-label", `${words}: ${percent}`);
    const [, , near, far] = rings[at].children;
    near.replaceChildren(exact(`savings.${saved.days}.bytes_from_peers`, saved.bytes_from_peers), " from peers");
    const cached = exact(`savings.${saved.days}.bytes_from_cache_host`, saved.bytes_from_cache_host);
    far.replaceChildren(exact(`savings.${saved.days}.bytes_from_http`, saved.bytes_from_http), " over HTTP", ...(saved.bytes_from_cache_host ? [", ", cached, " of it from cache hosts"] : []));
  });
  const month = told.month, counts = KINDS.map(([kind]) => month[`bytes_from_${kind}`]);
  const name = new Date(`${month.month}-15T12:00:00`).toLocaleDateString("en", { month: "long", year: "numeric" });
  $("month").textContent = `${name}, up to now`;
  if (!$("sources").firstChild) $("sources").append(element("div", { class: "bar", "aria-hidden": "true" }), element("ul", { class: "legend" }));
  bar($("sources").firstChild, KINDS.map(([kind], at) => [kind, counts[at]]), counts.reduce((sum, count) => sum + count, 0));
  legend($("sources").lastChild, KINDS.map(([kind, word], at) => [kind, `${word} `, exact(`month.bytes_from_${kind}`, counts[at])]));
  $("foot").textContent = `Up for ${duration(told.uptime_seconds)}, ${bytes(told.resident_bytes)} resident, ${told.descriptors} descriptors, ${told.cpu_seconds.toFixed(1)} s of processor time`;
  $("foot").dataset.contents = told.contents;
  weighed = told;
  disk();
}

/** Entries of the cache shown at first, and with each "more". */
const SHOWN = 8;
let entries = [], next = null, pages = 1, weighed = null;

function disk() {
  if (weighed === null) return;
  const told = weighed;
  const used = entries.reduce((sum, entry) => sum + entry.bytes_on_disk, 0);
  $("cache-count").textContent = told.contents ? `${told.contents} ${told.contents === 1 ? "content" : "contents"}` : "";
  if (!$("disk").firstChild) $("disk").append(element("div", { class: "bar", "aria-hidden": "true" }), element("p", { class: "quiet" }));
  bar($("disk").firstChild, [["lan", used]], used + told.disk_free_bytes);
  $("disk").lastChild.replaceChildren(exact("cache.bytes_on_disk", used), next ? " or more used, " : " used, ", exact("cache.disk_free_bytes", told.disk_free_bytes), " free on its volume");
}

async function cache() {
  let read = [], page = { next: null };
  for (let at = 0; at < pages; at += 1) {
    page = await ask(page.next ? `/v1/cache?after=${page.next}` : "/v1/cache");
    read = read.concat(page.entries);
    if (!page.next) break;
  }
  [entries, next] = [read, page.next];
  const newest = [...entries].sort((one, two) => two.last_used - one.last_used);
  keep($("cache-list"), newest.slice(0, pages * SHOWN), (entry) => entry.manifest_id, () => {
    const node = element("li");
    node.fill = (entry) => {
      const name = entry.readable ? entry.name || entry.manifest_id.slice(0, 16) : "(damaged)";
      const part = entry.bytes_on_disk < entry.bytes_total ? `${bytes(entry.bytes_on_disk)} of ` : "";
      const used = entry.last_used ? `last used ${new Date(entry.last_used * 1000).toLocaleString("en", { dateStyle: "medium", timeStyle: "short" })}` : "not used yet";
      node.replaceChildren(element("span", {}, name), element("span", { class: "number" }, part + bytes(entry.bytes_total)), element("span", { class: "quiet" }, entry.pinned ? `pinned, ${used}` : used));
    };
    return node;
  });
  disk();
  $("cache-none").hidden = entries.length > 0;
  $("cache-more").hidden = entries.length <= pages * SHOWN && !next;
}
$("cache-more").addEventListener("click", () => { pages += 1; once(cache); });

// -- asking again and again

let events = null, lost = null;

function signIn() {
  stop();
  state("not signed in", "wait");
  trouble("This page needs an invitation. Run ", element("code", {}, "piecework dashboard"), " on the daemon's machine and open the URL that it prints.");
}

function failed(error) {
  if (error instanceof Refused) { signIn(); return; }
  lost ??= new Date();
  state("no answer", "bad");
  trouble(`The daemon has not answered since ${lost.toLocaleTimeString("en")}. What you see is as it was then; this page keeps asking.`);
}

function well() {
  if (lost !== null || !$("trouble").hidden) { lost = null; trouble(); }
}

async function once(work) {
  try { await work(); well(); } catch (error) { failed(error); }
}

const WORK = [
  [2, async () => { rates = await ask("/v1/rates"); drawRates(); }],
  [2, pieces],
  [4, async () => peers(await ask("/v1/peers"))],
  [4, async () => perf(await ask("/v1/perf"))],
  [20, cache],
];
const due = new Map();
let beat = null, busy = false;

async function tick() {
  // Hidden pages ask nothing, so that a forgotten one keeps no machine awake.
  if (document.hidden || busy) return;
  busy = true;
  for (const [every, work] of WORK) {
    if ((due.get(work) ?? 0) <= performance.now() && beat !== null) {
      due.set(work, performance.now() + every * 1000 - 100);
      await once(work);
    }
  }
  busy = false;
}

function listen() {
  if (events !== null) events.close();
  events = new EventSource("/v1/events");
  events.addEventListener("status", (event) => { well(); told(JSON.parse(event.data)); });
  // The browser tries again by itself where the connection broke, and not where it was refused.
  events.addEventListener("error", () => {
    if (events?.readyState === EventSource.CLOSED) { events = null; once(async () => { await ask("/v1/status"); listen(); }); }
  });
}

function stop() {
  clearInterval(beat);
  events?.close();
  [beat, events] = [null, null];
}

function start() {
  stop();
  beat = setInterval(() => { if (events === null) listen(); tick(); }, 1000);
  listen();
  tick();
}

document.addEventListener("visibilitychange", () => {
  if (beat === null) return;
  if (document.hidden) { events?.close(); events = null; } else { listen(); tick(); }
});
new ResizeObserver(() => drawRates()).observe($("rates-plot"));

async function begin() {
  const code = location.hash.slice(1);
  if (/^[0-9a-f]{64}$/.test(code)) {
    history.replaceState(null, "", "/");
    await ask("/session", { method: "POST", body: code }).catch((error) => { if (!(error instanceof Refused)) throw error; });
  }
  told(await ask("/v1/status"));
  start();
}
begin().catch((error) => { failed(error); if (!(error instanceof Refused)) start(); });
window.addEventListener("hashchange", () => { if (/^#[0-9a-f]{64}$/.test(location.hash)) location.reload(); });
