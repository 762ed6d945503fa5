// The page: which memory, what it has read, questions and answers, and where these were read.

import { ApiError, call, events, setKey } from "./api.js";
import * as draw from "./draw.js";

const $ = (id) => document.getElementById(id);
const MEMORIES = "/v1/memories";

const now = {
  model: "",
  memory: null, // as the server tells it
  turns: [], // { question, answer, passages, state: "open" | "done" | "failed" | "stopped", why }
  reading: null, // AbortController of an upload
  asking: null, // of an answer
  points: [], // bytes against tokens
  at: -1, // segment under the cursor, as a place in `segments()`
  shown: null, // the turn whose passages are lit
};

// -- small helpers ----------------------------------------------------------------------------------------

function element(name, properties = {}, ...children) {
  const node = Object.assign(document.createElement(name), properties);
  node.append(...children.filter((child) => child !== null));
  return node;
}

function tell(message) {
  $("notice").textContent = message || "";
  $("notice").hidden = !message;
}

const number = (value) => Math.round(value).toLocaleString("en");
const path = (...parts) => [MEMORIES, ...parts.map(encodeURIComponent)].join("/");

// What goes wrong is told. quiet: what was told before stays.
async function guarded(work, quiet = false) {
  try {
    if (!quiet) tell("");
    return await work();
  } catch (error) {
    if (error.name === "AbortError") return undefined;
    if (error instanceof ApiError && error.status === 401) {
      $("key-form").hidden = false;
      $("key").focus();
    }
    if (error instanceof ApiError && error.status === 0) retry();
    tell(error.message || String(error));
    return undefined;
  }
}

let retrying = 0;
let leaving = false;

function retry() {
  clearTimeout(retrying);
  retrying = setTimeout(async () => {
    try {
      await call("GET", "/v1/models");
      tell("");
      await list(now.memory?.id);
    } catch (error) {
      if (error.status === 0) retry();
    }
  }, 2000);
}

// -- which memory -----------------------------------------------------------------------------------------

async function start() {
  const models = await call("GET", "/v1/models");
  now.model = models.data[0].id;
  $("model").textContent = now.model;
  $("key-form").hidden = true;
  await list(decodeURIComponent(location.hash.slice(1)));
}

async function list(wanted) {
  const found = (await call("GET", `${MEMORIES}?limit=100`)).data;
  const chosen = found.find((one) => one.id === wanted) || found[0];
  const options = found.map((one) => element("option", { value: one.id, textContent: one.name || one.id }));
  if (!options.length) options.push(element("option", { value: "", textContent: "none yet: drop a document" }));
  $("memory").replaceChildren(...options);
  $("memory").disabled = !found.length;
  if (chosen) $("memory").value = chosen.id;
  await open(chosen?.id);
}

async function open(id) {
  const changed = now.memory?.id !== id;
  now.memory = id ? await call("GET", path(id)) : null;
  if (changed) {
    now.at = -1;
    now.points = [];
    now.shown = null;
    now.turns = id ? restored(id) : [];
    $("text").hidden = true;
  }
  history.replaceState(null, "", id ? `#${encodeURIComponent(id)}` : location.pathname);
  show();
}

async function create(name) {
  const made = await call("POST", MEMORIES, name ? { name } : {});
  await list(made.id);
}

// What was asked stands in this tab; an answer that a reload cut off is told so.
function restored(id) {
  try {
    const kept = JSON.parse(sessionStorage.getItem(`turns ${id}`) || "[]");
    return kept.map((turn) => (turn.state === "open" ? { ...turn, state: "failed", why: "The page was reloaded before the answer was complete." } : turn));
  } catch {
    return [];
  }
}

function keep() {
  if (now.memory) sessionStorage.setItem(`turns ${now.memory.id}`, JSON.stringify(now.turns.slice(-50)));
}

// -- reading ----------------------------------------------------------------------------------------------

async function read(files) {
  if (now.reading) return tell("One document is read at a time; the next can follow when this one is done.");
  await guarded(async () => {
    if (!now.memory) await create(files[0].name.slice(0, 60).replace(/[^A-Za-z0-9._-]+/g, "-").replace(/^[^A-Za-z0-9]+/, "") || "memory");
    for (const file of files) await readOne(file);
  });
  now.reading = null;
  $("reading").hidden = true;
  if (now.memory) await guarded(() => list(now.memory.id), true);
  $("question").focus();
}

async function readOne(file) {
  const form = new FormData();
  form.append("file", file, file.name);
  now.reading = new AbortController();
  $("reading-what").textContent = `Reading ${file.name}`;
  $("reading-bar").removeAttribute("value");
  $("reading-numbers").textContent = "sent";
  $("reading").hidden = false;
  const begun = performance.now();
  for await (const event of events("POST", path(now.memory.id, "documents"), form, now.reading.signal)) {
    if (event.total_tokens) {
      $("reading-bar").max = event.total_tokens;
      $("reading-bar").value = Math.min(event.tokens, event.total_tokens);
    }
    const speed = event.tokens_per_second ?? event.tokens / ((performance.now() - begun) / 1000);
    $("reading-numbers").textContent = `${number(event.tokens)} tokens, ${number(speed)} a second`;
    if (event.bytes !== undefined) point(event.memory_tokens ?? event.tokens, event.bytes, event.kv_cache_bytes);
  }
}

function point(tokens, memory, cache) {
  if (!now.points.length) now.points.push({ tokens: 0, memory, cache: 0 });
  if (tokens > now.points.at(-1).tokens) now.points.push({ tokens, memory, cache });
  plot();
}

function plot() {
  const last = now.points.at(-1);
  $("bytes").hidden = !last;
  if (!last) return;
  draw.bytes($("bytes-plot"), now.points);
  $("bytes-caption").textContent = `After ${number(last.tokens)} tokens this memory takes ${draw.size(last.memory)}; keys and values of full attention would take ${draw.size(last.cache)}.`;
}

// -- asking -----------------------------------------------------------------------------------------------

async function ask(question) {
  const turn = { question, answer: "", passages: [], state: "open" };
  now.turns.unshift(turn);
  now.shown = turn;
  now.asking = new AbortController();
  $("question").value = "";
  keep();
  show();
  const body = {
    model: now.model,
    messages: [{ role: "user", content: question }],
    stream: true,
    max_tokens: 160,
    memory: now.memory.id,
  };
  tell("");
  try {
    for await (const event of events("POST", "/v1/chat/completions", body, now.asking.signal)) {
      const told = event.memory?.passages;
      if (told) turn.passages = told;
      turn.answer += event.choices?.[0]?.delta?.content || "";
      showTurn(turn);
      if (told) showBank();
    }
    turn.state = "done";
  } catch (error) {
    if (leaving) return; // the browser ends it, not the server: it is told after the reload
    turn.state = error.name === "AbortError" ? "stopped" : "failed";
    turn.why = error.name === "AbortError" ? "Stopped." : error.message;
    if (error.status === 0) retry();
  }
  now.asking = null;
  keep();
  show();
}

// -- what is shown ----------------------------------------------------------------------------------------

function show() {
  const memory = now.memory;
  const empty = !memory || !memory.documents?.length;
  $("ask").disabled = empty || Boolean(now.asking);
  $("ask").hidden = Boolean(now.asking);
  $("stop").hidden = !now.asking;
  $("fork").disabled = $("delete").disabled = !memory;
  $("documents").replaceChildren(...(memory?.documents || []).map(documentRow));
  if (memory && !now.reading && memory.tokens) {
    if (!now.points.length) now.points = [{ tokens: 0, memory: memory.bytes, cache: 0 }];
    point(memory.tokens, memory.bytes, memory.kv_cache_bytes);
  }
  plot();
  $("turns").replaceChildren(...now.turns.map(turnRow));
  showBank();
}

function documentRow(one, index) {
  const swatch = element("span", { className: "swatch" });
  swatch.style.background = draw.colour(index, true);
  const forget = element("button", { type: "button", className: "link danger", textContent: "Forget" });
  forget.setAttribute("aria-label", `Forget ${one.name}`);
  forget.onclick = () => sure(`Forget ${one.name}? Its text and its segments are taken out of the memory.`, "Forget", async () => {
    await call("DELETE", path(now.memory.id, "documents", one.id));
    now.points = [];
    await open(now.memory.id);
  });
  return element("li", {}, swatch, element("span", { className: "name", textContent: one.name }), element("span", { className: "quiet", textContent: `${number(one.tokens)} tokens` }), forget);
}

function turnRow(turn) {
  const row = element("article", { className: "turn" });
  turn.row = undefined;
  Object.defineProperty(turn, "row", { value: row, enumerable: false, writable: true, configurable: true });
  fill(turn);
  return row;
}

function showTurn(turn) {
  if (turn.row?.isConnected) fill(turn);
}

function fill(turn) {
  const row = turn.row;
  row.classList.toggle("failed", turn.state === "failed");
  const answer = element("p", { className: turn.state === "open" ? "answer open" : "answer", textContent: turn.answer || (turn.state === "open" ? "" : turn.why || "(no words)") });
  const why = turn.answer && turn.why ? element("p", { className: "quiet", textContent: turn.why }) : null;
  const again = turn.state === "failed" && !now.asking ? element("button", { type: "button", textContent: "Ask again" }) : null;
  if (again) again.onclick = () => ask(turn.question);
  const passages = element("ul", { className: "passages" }, ...turn.passages.map((passage) => passageRow(passage, turn)));
  passages.setAttribute("aria-label", "Passages that were recalled");
  row.replaceChildren(element("p", { className: "asked", textContent: turn.question }), answer, ...[why, again].filter(Boolean), passages);
}

function where(passage) {
  const parts = [passage.document];
  if (passage.page) parts.push(passage.page);
  else if (passage.line) parts.push(`line ${number(passage.line)}`);
  return parts.filter(Boolean).join(", ");
}

function passageRow(passage, turn) {
  const button = element(
    "button",
    { type: "button" },
    element("span", { className: "weight", textContent: `${Math.round(100 * passage.weight)}%` }),
    " ",
    element("span", { className: "where", textContent: where(passage) + (passage.read_again ? ", read again" : "") }),
    element("br"),
    passage.context || passage.text || "",
  );
  button.onclick = () => {
    now.shown = turn;
    now.at = segments().findIndex((one) => one.number === passage.segment);
    showBank();
    showText(passage, turn.question);
  };
  return element("li", {}, button);
}

// Every segment that is held: { number, document (its place), name }.
function segments() {
  return (now.memory?.documents || []).flatMap((one, index) => {
    const [from, to] = one.segments || [0, 0];
    return Array.from({ length: to - from }, (_, i) => ({ number: from + i, document: index, id: one.id, name: one.name }));
  });
}

function weightsOf(turn) {
  return new Map((turn?.passages || []).map((passage) => [passage.segment, passage.weight]));
}

function showBank() {
  const all = segments();
  $("bank").hidden = !all.length;
  if (!all.length) return;
  const capacity = now.memory.capacity ? ` of ${number(now.memory.capacity)}` : "";
  $("bank-caption").textContent = `${number(all.length)}${capacity} segments, from the first to the last. What was recalled for the question stands out; arrow keys go through them, Enter shows the text.`;
  draw.strip($("strip"), all, weightsOf(now.shown), now.at);
  $("strip").setAttribute("aria-valuemax", all.length);
  $("strip").setAttribute("aria-valuenow", now.at + 1);
  const one = all[now.at];
  const weight = one && weightsOf(now.shown).get(one.number);
  const told = one ? `Segment ${one.number + 1}, ${one.name}${weight ? `, recalled with ${Math.round(100 * weight)}%` : ""}` : "";
  $("strip").setAttribute("aria-valuetext", told || "none chosen");
  $("segment").textContent = told;
  if ($("map-details").open) {
    const asked = now.turns.filter((turn) => turn.passages.length);
    draw.map($("map"), all, asked.map(weightsOf));
    $("map").setAttribute("aria-label", `Recall of ${asked.length} questions among ${all.length} segments`);
    $("map-legend").replaceChildren(...asked.map((turn) => element("li", { textContent: turn.question })));
  }
}

async function showText(passage, question) {
  await guarded(async () => {
    let before = "", inside = passage.text || "", after = "";
    if (passage.document_id && passage.characters) {
      const [begin, end] = passage.characters;
      const from = Math.max(0, begin - 1200);
      const told = await call("GET", `${path(now.memory.id, "documents", passage.document_id, "text")}?start=${from}&end=${end + 1200}`);
      before = told.text.slice(0, begin - from);
      inside = told.text.slice(begin - from, end - from);
      after = told.text.slice(end - from);
    }
    const lit = element("mark", {}, ...marked(inside, question));
    $("text-title").textContent = where(passage);
    $("text-body").replaceChildren(before, lit, after);
    $("text").hidden = false;
    lit.scrollIntoView({ block: "nearest" });
    $("text").scrollTop = Math.max(0, lit.offsetTop - $("text").offsetTop - 80);
    $("text").focus({ preventScroll: true });
  });
}

// The text with the question's words of more than three letters underlined.
function marked(text, question) {
  const words = new Set((question.toLowerCase().match(/[\p{L}\p{N}]{4,}/gu) || []));
  return text.split(/([\p{L}\p{N}]+)/u).map((piece) => (words.has(piece.toLowerCase()) ? element("mark", { className: "word", textContent: piece }) : piece));
}

function sure(text, verb, work) {
  $("confirm-text").textContent = text;
  $("confirm").querySelector(".danger").textContent = verb;
  $("confirm").returnValue = "no";
  $("confirm").onclose = () => ($("confirm").returnValue === "yes" ? guarded(work) : undefined);
  $("confirm").showModal();
}

// -- what the reader does ---------------------------------------------------------------------------------

$("key-form").onsubmit = (event) => {
  event.preventDefault();
  setKey($("key").value);
  guarded(start);
};
$("memory").onchange = () => guarded(() => open($("memory").value));
$("new").onclick = () => guarded(() => create());
$("fork").onclick = () => guarded(async () => {
  const made = await call("POST", path(now.memory.id, "fork"), {});
  await list(made.id);
});
$("delete").onclick = () => sure(`Delete ${now.memory.name || now.memory.id}? Nothing of it is kept.`, "Delete", async () => {
  sessionStorage.removeItem(`turns ${now.memory.id}`);
  await call("DELETE", path(now.memory.id));
  await list();
});
$("file").onchange = async () => {
  const files = [...$("file").files];
  $("file").value = "";
  if (files.length) await read(files);
};
$("paste-form").onsubmit = (event) => {
  event.preventDefault();
  const text = $("paste").value;
  $("paste").value = "";
  read([new File([text], "pasted text.txt", { type: "text/plain" })]);
};
$("reading-stop").onclick = () => now.reading?.abort();
$("ask-form").onsubmit = (event) => {
  event.preventDefault();
  const question = $("question").value.trim();
  if (question && !now.asking && !$("ask").disabled) ask(question);
};
$("stop").onclick = () => now.asking?.abort();
$("map-details").ontoggle = showBank;

for (const kind of ["dragenter", "dragover"]) {
  $("drop").addEventListener(kind, (event) => {
    event.preventDefault();
    $("drop").classList.add("over");
  });
}
for (const kind of ["dragleave", "drop"]) $("drop").addEventListener(kind, () => $("drop").classList.remove("over"));
$("drop").addEventListener("drop", (event) => {
  event.preventDefault();
  const files = [...event.dataTransfer.files];
  if (files.length) read(files);
});
// a file that misses the place is not opened instead of the page
for (const kind of ["dragover", "drop"]) document.addEventListener(kind, (event) => event.preventDefault());

$("strip").onclick = (event) => {
  const all = segments();
  now.at = Math.min(all.length - 1, Math.floor((event.offsetX / $("strip").clientWidth) * all.length));
  showBank();
  segmentText();
};
$("strip").onkeydown = (event) => {
  const last = segments().length - 1;
  const moves = { ArrowRight: now.at + 1, ArrowLeft: now.at - 1, Home: 0, End: last, PageDown: now.at + 10, PageUp: now.at - 10 };
  if (event.key === "Enter") segmentText();
  else if (event.key in moves) now.at = Math.max(0, Math.min(last, moves[event.key]));
  else return;
  event.preventDefault();
  showBank();
};

async function segmentText() {
  const one = segments()[now.at];
  if (!one) return;
  await guarded(async () => {
    const told = await call("GET", path(now.memory.id, "segments", String(one.number)));
    await showText(told, now.shown?.question || "");
  });
}

addEventListener("pagehide", () => {
  leaving = true;
});
addEventListener("pageshow", () => {
  leaving = false;
});
addEventListener("resize", () => {
  plot();
  showBank();
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", show);
addEventListener("hashchange", () => guarded(() => list(decodeURIComponent(location.hash.slice(1)))));
// another tab, or another program, may have changed it meanwhile
document.addEventListener("visibilitychange", () => {
  if (!document.hidden && !now.reading && !now.asking) guarded(() => list(now.memory?.id));
});

guarded(start);
