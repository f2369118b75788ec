"use strict";
const $ = (id) => document.getElementById(id);
const OUTBOX = "dress-outbox", REFUSED = "dress-refused", WHO = "dress-who", TALK = "dress-talk";
const RETRY = [500, 1000, 2000, 5000];
const name = () => [...crypto.getRandomValues(new Uint8Array(16))].map((n) => n.toString(16).padStart(2, "0")).join("");

let state = { sides: [], criteria: [], queue: null, blind: false };
let talk = { conversation: name(), picture: null, sides: [] };  // sides: [{before, shown: [answer]}]
let item = null;  // of the queue
let criterion = 0;  // that keys rate
let running = new Map();  // answers on their way: job -> EventSource

function tell(text) { $("error").textContent = text || ""; $("error").hidden = !text; }
async function ask(path, options) {
  const reply = await fetch(path, options);
  const body = await reply.json().catch(() => ({}));
  if (!reply.ok) { const error = new Error(body.error || `${path}: ${reply.status}`); error.status = reply.status; throw error; }
  return body;
}
const send = (path, body) => ask(path, { method: "POST", body: typeof body === "string" ? body : JSON.stringify(body) });

// --- what people say: kept here until the server has it, in order, each under its own name ---

const outbox = () => JSON.parse(localStorage.getItem(OUTBOX) || "[]");
const keep = (words) => { localStorage.setItem(OUTBOX, JSON.stringify(words)); count(); };
let flushing = null, tries = 0;
function count(note) {
  const waiting = outbox().length;
  $("saved").textContent = waiting ? `${waiting} not saved yet${note ? `: ${note}` : ""}` : state.out ? `all saved in ${state.out}` : "";
}
function say(word) { keep([...outbox(), { id: name(), who: $("who").value.trim(), ...word }]); flush(); }
function flush() {  // one at a time; whoever calls waits for the one that runs
  flushing ||= navigator.locks.request(OUTBOX, empty).finally(() => { flushing = null; });
  return flushing;
}
async function empty() {
  for (let words = outbox(); words.length; words = outbox()) {
    try {
      await send("/feedback", words[0]);
      tries = 0;
    } catch (error) {
      if (error.status !== 400 && error.status !== 422) {  // no connection, or no room: it stays here
        count(error.message);
        setTimeout(flush, RETRY[Math.min(tries++, RETRY.length - 1)]);
        return;
      }
      localStorage.setItem(REFUSED, JSON.stringify([...JSON.parse(localStorage.getItem(REFUSED) || "[]"), words[0]]));
      tell(`not taken, and kept in this browser: ${error.message}`);
    }
    keep(outbox().filter((word) => word.id !== words[0].id));
  }
}
addEventListener("online", flush);
addEventListener("storage", (event) => { if (event.key === OUTBOX) count(); });

// --- answers ---

function paint(box, text, spans) {  // text nodes and marks only: what a model writes is never read as HTML
  const letters = [...text];
  const inside = letters.map(() => false);
  for (const span of spans) for (let n = span.start; n < span.end && n < letters.length; n++) inside[n] = true;
  box.replaceChildren();
  for (let n = 0; n < letters.length;) {
    let end = n;
    while (end < letters.length && inside[end] === inside[n]) end++;
    const piece = document.createTextNode(letters.slice(n, end).join(""));
    if (inside[n]) { const mark = document.createElement("mark"); mark.append(piece); box.append(mark); } else box.append(piece);
    n = end;
  }
}
function card(side, question, title) {
  const article = $("answer-template").content.firstElementChild.cloneNode(true);
  article.querySelector(".question").textContent = question;
  article.querySelector(".name").textContent = title || "";
  article.side = side;
  article.spans = {};
  article.querySelector(".again").hidden = item !== null;
  article.querySelector(".again").onclick = () => again(article);
  $("sides").children[side].append(article);
  return article;
}
function note(article, text, bad) {
  const place = article.querySelector(".note");
  place.textContent = text;
  place.hidden = !text;
  place.classList.toggle("bad", !!bad);
}
function follow(article, job) {
  return new Promise((resolve) => {
    const box = article.querySelector(".text");
    const source = new EventSource(`/answers/${job}/events`);  // comes back by itself, behind the last piece that it has
    let last = -1;
    running.set(job, source);
    busy();
    const end = (result) => { source.close(); running.delete(job); busy(); resolve(result); };
    source.onmessage = (event) => {
      if (+event.lastEventId <= last) return;
      last = +event.lastEventId;
      box.append(JSON.parse(event.data));
      note(article, "");
    };
    source.onerror = () => {
      if (source.readyState === EventSource.CLOSED) end({ failed: "the server knows nothing of this answer any more" });
      else note(article, "connection lost; trying again");
    };
    source.addEventListener("end", (event) => end(JSON.parse(event.data)));
  });
}
function busy() { $("stop").hidden = running.size === 0; $("send").disabled = running.size > 0; }
function finish(article, result) {
  note(article, "");
  if (result.failed) { note(article, `no answer: ${result.failed}`, true); return false; }
  if (result.finish_reason === "length") note(article, "cut: it has no end of its own");
  complete(article, result.answer, result.text);
  return true;
}
async function complete(article, answer, text) {
  const box = article.querySelector(".text");
  article.answer = answer;
  article.whole = text;
  box.dataset.answer = answer;
  paint(box, text, []);
  const form = article.querySelector(".feedback");
  form.hidden = false;
  form.onsubmit = (event) => event.preventDefault();
  const criteria = item && item.criterion ? [item.criterion] : state.criteria;
  for (const one of criteria) form.insertBefore(fields(article, one), form.querySelector(".better"));
  const better = form.querySelector(".better textarea");
  better.value = text;
  form.querySelector(".keep").onclick = () => {
    if (!named() || !better.value) return;
    say({ kind: "edit", answer, text: better.value });
    note(article, "kept: this is the reference now");
  };
  activate();
  if ($("who").value.trim()) fill(article);
}
async function fill(article) {  // what this person said before
  try {
    const { feedback, edit } = await ask(`/feedback?answer=${article.answer}&who=${encodeURIComponent($("who").value.trim())}`);
    for (const set of article.querySelectorAll("fieldset")) {
      const said = feedback[set.criterion];
      if (!said || set.touched) continue;
      rate(set, said.rating);
      set.querySelector(".critique").value = said.critique || "";
      set.querySelector(".refinement").value = said.refinement || "";
      article.spans[set.criterion] = said.spans || [];
    }
    if (edit) article.querySelector(".better textarea").value = edit;
    repaint(article);
  } catch (error) { tell(error.message); }
}
const repaint = (article) => paint(article.querySelector(".text"), article.whole, Object.values(article.spans).flat());

// --- feedback ---

function named() {
  if ($("who").value.trim()) return true;
  tell("Write your name first: what you say is kept under it.");
  $("who").focus();
  return false;
}
function rate(set, value) {
  set.rating = value;
  for (const button of set.querySelectorAll(".ratings button")) button.setAttribute("aria-checked", String(+button.textContent === value));
}
function fields(article, criterion) {
  const set = $("criterion-template").content.firstElementChild.cloneNode(true);
  set.criterion = criterion;
  set.querySelector("legend").textContent = criterion;
  const ratings = set.querySelector(".ratings");
  ratings.setAttribute("aria-label", criterion);
  for (const value of [1, 2, 3, 4]) {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = value;
    button.setAttribute("role", "radio");
    button.setAttribute("aria-checked", "false");
    button.title = ["bad", "rather bad", "rather good", "good"][value - 1];
    button.onclick = () => { if (named()) { rate(set, value); commit(article, set); } };
    ratings.append(button);
  }
  for (const area of set.querySelectorAll("textarea")) {
    area.setAttribute("aria-label", `${criterion}: ${area.placeholder}`);
    area.onchange = () => { if (named()) commit(article, set); };
  }
  set.addEventListener("focusin", () => {  // what one works on is what keys rate and marks belong to
    criterion = [...document.querySelectorAll("#sides fieldset")].indexOf(set);
    activate();
  });
  set.querySelector(".improve").hidden = item !== null;
  set.querySelector(".improve").onclick = () => {
    const text = set.querySelector(".refinement").value;
    if (!text.trim() || !named() || running.size) return;
    commit(article, set);
    question(text, [article.side], article);
  };
  return set;
}
function commit(article, set) {
  set.touched = true;
  article.current = set;  // marks belong to what was said last
  const text = (kind) => { const value = set.querySelector(kind).value; return value.trim() ? value : null; };
  const word = {
    kind: "feedback", answer: article.answer, criterion: set.criterion, rating: set.rating || null,
    critique: text(".critique"), refinement: text(".refinement"), spans: article.spans[set.criterion] || [],
  };
  if (set.said === JSON.stringify(word)) return;
  set.said = JSON.stringify(word);
  say(word);
  if (state.blind) reveal();
}
async function reveal() {  // names of two responders, once both last answers are rated
  const last = [...$("sides").children].map((side) => side.lastElementChild).filter((one) => one && one.answer);
  if (last.length < 2 || last.some((one) => ![...one.querySelectorAll("fieldset")].some((set) => set.rating))) return;
  while (outbox().length && !tries) await flush();
  try {
    const place = item ? `${item.record}/${item.dialogue}` : talk.conversation;
    const { names } = await ask(`/names?conversation=${encodeURIComponent(place)}&answers=${last.map((one) => one.answer)}&who=${encodeURIComponent($("who").value.trim())}`);
    last.forEach((one, side) => { one.querySelector(".name").textContent = names[side]; });
  } catch { /* not saved yet: the next rating asks again */ }
}

// --- marking: by whatever selects text (mouse, touch, keyboard) ---

let selected = null;
document.addEventListener("selectionchange", () => {
  if (document.activeElement === $("label")) return;
  const selection = getSelection();
  const range = selection.rangeCount ? selection.getRangeAt(0) : null;
  const from = range && range.commonAncestorContainer;
  const box = from && (from.nodeType === 1 ? from : from.parentElement).closest("[data-answer]");
  if (!box || !box.dataset.answer || selection.isCollapsed) { $("marking").hidden = true; selected = null; return; }
  const before = document.createRange();
  before.selectNodeContents(box);
  before.setEnd(range.startContainer, range.startOffset);
  const start = [...before.toString()].length;  // characters as the record counts them, not halves of them
  selected = { article: box.closest(".answer"), start, end: start + [...range.toString()].length };
  $("marking").hidden = false;
});
$("mark").addEventListener("pointerdown", (event) => event.preventDefault());  // the selection stays
$("mark").onclick = () => {
  if (!selected || !named()) return;
  const { article, start, end } = selected;
  const set = article.current || article.querySelector("fieldset.active") || article.querySelector("fieldset");
  const label = $("label").value.trim();
  article.spans[set.criterion] = [...(article.spans[set.criterion] || []), label ? { start, end, label } : { start, end }];
  repaint(article);
  commit(article, set);
  $("label").value = "";
  $("marking").hidden = true;
  getSelection().removeAllRanges();
};

// --- conversations ---

function columns(number) {
  $("sides").replaceChildren(...Array.from({ length: number }, () => Object.assign(document.createElement("div"), { className: "side" })));
}
const remember = () => { if (!item) sessionStorage.setItem(TALK, JSON.stringify(talk)); };
async function question(text, sides, after) {
  tell("");
  await Promise.all(sides.map(async (side) => {
    if (after && after.answer) talk.sides[side] = after.answer;  // advice follows the answer that it is about
    const article = card(side, text, state.sides[side].name);
    const choice = document.querySelector(`#conditions select[data-side="${side}"]`);
    const job = name();
    const body = {
      id: job, conversation: talk.conversation, who: $("who").value.trim() || "guest", side, question: text,
      picture: talk.picture, before: talk.sides[side] || null, condition: (choice && choice.value) || null,
    };
    for (let attempt = 0; ; attempt++) {  // the same name each time: it is asked once
      try { await send("/ask", body); break; } catch (error) {
        if (error.status || attempt >= RETRY.length) { note(article, error.message, true); return; }
        await new Promise((go) => setTimeout(go, RETRY[attempt]));
      }
    }
    article.before = body.before;
    const result = await follow(article, job);
    if (finish(article, result)) { talk.sides[side] = result.answer; remember(); }
  }));
}
function again(article) {  // the question goes back into the box, and what stood behind it leaves the page
  if (running.size) return;
  $("question").value = article.querySelector(".question").textContent;
  talk.sides[article.side] = article.before || null;
  while (article.nextElementSibling) article.nextElementSibling.remove();
  article.remove();
  $("question").focus();
  remember();
}
$("composer").onsubmit = (event) => {
  event.preventDefault();
  const text = $("question").value;
  if (!text.trim() || running.size) return;
  $("question").value = "";
  question(text, state.sides.map((_, side) => side), null);
};
$("question").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) { event.preventDefault(); $("composer").requestSubmit(); }
});
$("stop").onclick = () => { for (const job of running.keys()) send(`/answers/${job}/stop`, {}).catch((error) => tell(error.message)); };
$("new").onclick = async () => {
  if (running.size) return;
  talk = { conversation: name(), picture: talk.picture, sides: [] };
  remember();
  await begin();
};
$("file").onchange = async () => {
  const [file] = $("file").files;
  if (!file) return;
  tell("");
  $("picture-note").textContent = "sending …";
  try {
    const sent = await ask("/pictures", { method: "POST", body: file });
    talk = { conversation: name(), picture: sent.picture, sides: [] };
    remember();
    await begin();
    $("picture-note").textContent = `${sent.width} × ${sent.height}${sent.animated ? ", an animation: its first frame is used" : ""}`;
  } catch (error) {
    $("picture-note").textContent = "";
    tell(error.message);
  }
  $("file").value = "";
};
function show(picture) {
  $("shown").hidden = !picture;
  if (picture) $("shown").src = `/pictures/${picture}`; else $("shown").removeAttribute("src");
}
async function begin() {
  state = await ask(`/state?conversation=${talk.conversation}`);
  columns(state.sides.length || 1);
  show(talk.picture);
  $("conditions").replaceChildren(...state.sides.flatMap((side, number) => {
    if (!side.conditions.length) return [];
    const label = document.createElement("label"), choice = document.createElement("select");
    label.textContent = `${state.sides.length > 1 ? `${side.name}: ` : ""}asked under `;
    choice.dataset.side = number;
    choice.append(new Option("its own condition", ""), ...side.conditions.map((one) => new Option(one, one)));
    label.append(choice);
    return [label];
  }));
  count();
}
async function restore() {
  const stored = JSON.parse(sessionStorage.getItem(TALK) || "null");
  if (!stored) return;
  talk = stored;
  await begin();
  for (const [side, answer] of talk.sides.entries()) {
    if (!answer) continue;
    let before = null;
    for (const one of (await ask(`/conversation/${answer}`)).turns) {
      const article = card(side, one.question, state.sides[side].name);
      article.before = before;
      complete(article, one.answer, one.text);
      before = one.answer;
    }
  }
}

// --- queue ---

async function open(path) {
  tell("");
  for (const source of running.values()) source.close();
  running.clear();
  busy();
  const next = await ask(path);
  $("progress").max = next.total;
  $("progress").value = next.done;
  agreement();
  if (next.number === null) {
    item = null;
    $("place").textContent = `all ${next.total} are done`;
    $("sides").replaceChildren();
    show(null);
    return;
  }
  item = next;
  criterion = 0;
  $("place").textContent = `${next.number + 1} of ${next.total}, ${next.done} done`;
  show(next.picture);
  columns(next.answers.length);
  await Promise.all(next.answers.map(async (one, side) => {
    const question = [...next.turns.map(([user, answer]) => `${user}\n→ ${answer}`), next.question].join("\n");
    const article = card(side, question, one.name);
    const result = one.job ? await follow(article, one.job) : one;
    if (item === next) finish(article, result);
  }));
}
const step = (number) => open(`/queue/${number}?who=${encodeURIComponent($("who").value.trim())}`).catch((error) => tell(error.message));
async function next() {
  if (!named()) return;
  document.activeElement.blur();  // a text that is being written counts
  await flush();
  open(`/queue/next?who=${encodeURIComponent($("who").value.trim())}&after=${item ? item.number : -1}`).catch((error) => tell(error.message));
}
async function agreement() {
  const table = $("agreement");
  try {
    const rows = Object.entries(await ask("/agreement"));
    table.hidden = !rows.length;
    const cells = (kind, texts) => { const row = document.createElement("tr"); for (const text of texts) { const cell = document.createElement(kind); cell.textContent = text; row.append(cell); } return row; };
    table.replaceChildren(cells("th", ["agreement", "people", "answers", "alpha"]), ...rows.map(([name, one]) =>
      cells("td", [name, one.people, one.answers, one.alpha === null ? "–" : one.alpha.toFixed(2)])));
  } catch (error) { tell(error.message); }
}
function activate() {
  const sets = [...document.querySelectorAll("#sides fieldset")];
  criterion = Math.max(0, Math.min(criterion, sets.length - 1));
  sets.forEach((set, number) => set.classList.toggle("active", number === criterion));
  return sets[criterion];
}
addEventListener("keydown", (event) => {
  if (event.target.closest("input, textarea, select") || event.ctrlKey || event.metaKey || event.altKey || event.isComposing) return;
  const set = activate();
  if ("1234".includes(event.key) && set) {
    if (!named()) return;
    rate(set, +event.key);
    commit(set.closest(".answer"), set);
    criterion++;
    activate();
  } else if (event.key === "ArrowDown" || event.key === "ArrowUp") {
    criterion += event.key === "ArrowDown" ? 1 : -1;
    const now = activate();
    if (now) now.scrollIntoView({ block: "nearest" });
  } else if (state.queue !== null && event.key === "Enter") next();
  else if (item && event.key === "ArrowLeft" && item.number > 0) step(item.number - 1);
  else if (item && event.key === "ArrowRight" && item.number + 1 < item.total) step(item.number + 1);
  else return;
  event.preventDefault();
});

// --- begin ---

$("who").value = localStorage.getItem(WHO) || "";
$("who").onchange = () => {
  localStorage.setItem(WHO, $("who").value.trim());
  tell("");
  if (state.queue !== null && !item && $("who").value.trim()) next();
};
(async () => {
  try {
    await begin();
    flush();
    if (state.queue !== null) {
      $("queue").hidden = false;
      $("composer").hidden = $("choose").hidden = $("new").hidden = true;
      if ($("who").value.trim()) await next(); else named();
    } else await restore();
  } catch (error) { tell(error.message); }
})();
