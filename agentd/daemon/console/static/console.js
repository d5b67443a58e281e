// The console's page. Whatever comes from the service is text, and is only ever put into the page as text.
"use strict";

const $ = (id) => document.getElementById(id);
const KEY = "agentd-key"; // for this origin alone; the other half of a session is a cookie that no script sees
const VIEWS = ["live", "workloads", "log", "top", "record"];
const FEED_ROWS = 200;
const WORDS = { allowed: "allowed", approval_required: "asked", approval_denied: "refused", approval_expired: "expired" };
let readOnly = false;
let stream = null;
let timers = [];

function element(name, text, kind) {
  const made = document.createElement(name);
  if (text !== undefined && text !== null) made.textContent = String(text);
  if (kind) made.className = kind;
  return made;
}

function say(text, good = false) {
  $("message").textContent = text;
  $("message").className = good ? "good" : "";
  $("message").hidden = !text;
}

async function ask(path, options = {}) {
  const headers = { "X-Agentd-Key": localStorage.getItem(KEY) || "" };
  if (options.body !== undefined) headers["Content-Type"] = "application/json";
  const answer = await fetch(path, { ...options, headers, cache: "no-store" });
  if (options.raw && answer.ok) return answer;
  const made = await answer.json();
  if (answer.ok) return made;
  if (answer.status === 403 && path !== "/api/login" && /not logged in|taken back/.test(made.error)) leave();
  throw new Error(made.error);
}

const post = (path, body) => ask(path, { method: "POST", body: JSON.stringify(body) });
const time = (text) => (text ? new Date(text).toLocaleTimeString([], { hour12: false }) : "");

function fill(table, rows, none) {
  const body = $(table).tBodies[0];
  body.replaceChildren(...rows);
  if (!rows.length) {
    const cell = element("td", none, "none");
    cell.colSpan = $(table).tHead.rows[0].cells.length;
    const row = element("tr");
    row.append(cell);
    body.append(row);
  }
}

function line(cells) {
  const row = element("tr");
  for (const cell of cells) row.append(cell);
  return row;
}

function what(record) {
  const cell = element("td", record.input_summary || record.reason, "what");
  if (record.count > 1) cell.append(element("span", ` × ${record.count}`, "hint"));
  return cell;
}

function decision(record) {
  return element("td", WORDS[record.event] || record.event.replace(/_/g, " "), `short ${record.event}`);
}

// -- held operations

function card(held) {
  const made = $("card").content.cloneNode(true).firstElementChild;
  made.dataset.id = held.id;
  made.querySelector(".words").textContent = `${held.agent} wants to ${held.words}`;
  const list = made.querySelector("dl");
  const facts = [
    ["is", `${held.tool}/${held.operation}, risk ${held.risk}`],
    ["program", held.exe],
    ["process", held.processes.join(", ") + (held.waiting_threads > 1 ? ` (${held.waiting_threads} threads wait)` : "")],
    ["rule", held.rule],
    ["waiting", `${Math.round(held.seconds_waiting)} s; denied in ${Math.round(held.seconds_left)} s`],
  ];
  if (held.approvers > 1) facts.push(["approvers", `${held.approvers} needed; yes so far: ${held.approved_by.join(", ") || "nobody"}`]);
  for (const [term, text] of facts) list.append(element("dt", term), element("dd", text));
  for (const answer of ["approve", "deny"]) {
    made.querySelector(`.${answer}`).addEventListener("click", () => reply(made, answer));
  }
  made.querySelector(".answer").hidden = readOnly;
  return made;
}

async function reply(made, answer) {
  const buttons = made.querySelectorAll("button");
  buttons.forEach((button) => (button.disabled = true));
  try {
    const reason = made.querySelector(".reason").value;
    const done = await post(`/api/approvals/${made.dataset.id}`, { answer, reason, upto: Number(made.dataset.upto) });
    say(`approval ${made.dataset.id}: ${done.answer === "waiting" ? `${done.missing} more must approve` : done.answer}`, true);
    await showHeld();
  } catch (error) {
    say(error.message);
    buttons.forEach((button) => (button.disabled = false));
  }
}

async function showHeld() {
  const { held, summary } = await ask("/api/approvals");
  $("held-count").textContent = summary.pending;
  document.title = summary.pending ? `(${summary.pending}) agentd` : "agentd";
  const known = new Map([...$("held").querySelectorAll("article")].map((made) => [made.dataset.id, made]));
  const cards = held.map((one) => {
    const fresh = card(one);
    const old = known.get(one.id);
    if (!old) {
      fresh.dataset.upto = one.latest_hold;
      return fresh;
    }
    // Somebody may be typing here: only what is told changes. What is answered is what the card showed first.
    old.querySelector("dl").replaceWith(fresh.querySelector("dl"));
    return old;
  });
  if (!cards.length) cards.push(element("p", "Nothing waits for an answer.", "empty"));
  const now = [...$("held").children];
  if (cards.length !== now.length || cards.some((made, index) => made !== now[index])) $("held").replaceChildren(...cards);
}

// -- live decisions

function feed(record) {
  const body = $("feed").tBodies[0];
  if (record.missed) {
    const cell = element("td", `${record.missed} records came faster than they could be shown; they are in the log`, "none");
    cell.colSpan = 5;
    body.prepend(line([cell]));
  }
  body.prepend(
    line([element("td", time(record.timestamp), "short"), decision(record), element("td", record.agent_id, "short"), what(record), element("td", record.rule)])
  );
  while (body.rows.length > FEED_ROWS) body.deleteRow(-1);
}

async function follow() {
  const mine = (stream = new AbortController());
  while (!mine.signal.aborted) {
    try {
      const answer = await ask("/api/live", { signal: mine.signal, raw: true });
      fill("feed", [], "");
      $("feed").tBodies[0].replaceChildren();
      $("stream").textContent = "live";
      const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
      for (let text = ""; ; ) {
        const { value, done } = await reader.read();
        if (done) break;
        const parts = (text + value).split("\n\n");
        text = parts.pop();
        for (const part of parts) if (part.startsWith("data: ")) feed(JSON.parse(part.slice(6)));
      }
    } catch (error) {
      if (mine.signal.aborted) return;
    }
    $("stream").textContent = "not connected, trying again";
    await new Promise((done) => setTimeout(done, 2000));
  }
}

// -- the other views

async function showWorkloads() {
  const { status } = await ask("/api/state");
  fill(
    "running",
    status.workloads.map((one) =>
      line([
        element("td", one.workload), element("td", one.agent), element("td", one.processes, "number"),
        element("td", new Date(one.started * 1000).toLocaleString(), "short"), element("td", one.origin),
      ])
    ),
    "No workload runs."
  );
  fill(
    "guarantees",
    status.enforcement.map((row) => line([element("td", row.operation), element("td", row.point), element("td", row.guarantee)])),
    "Nothing is enforced."
  );
  const lost = Object.entries(status.lost).map(([reason, count]) => `${reason} ${count}`).join(", ");
  const facts = [
    ["policy", status.policy ? `${status.policy.source} (sha256 ${status.policy.sha256.slice(0, 12)})` : "none"],
    ["agents", status.policy ? status.policy.agents.join(", ") : ""],
    ["verdicts", status.verdicts], ["lost", lost], ["pins", status.pins],
  ];
  $("facts").replaceChildren(...facts.flatMap(([term, text]) => [element("dt", term), element("dd", text)]));
}

async function showLog() {
  const query = new URLSearchParams(location.search);
  for (const field of $("search").elements) if (field.name) field.value = query.get(field.name) || "";
  const made = await ask(`/api/log?${query}`);
  const { picture } = made;
  const drawn = picture.svg ? new DOMParser().parseFromString(draw(picture.svg), "image/svg+xml").documentElement : element("p", "Nothing to draw.", "hint");
  $("picture").replaceChildren(document.importNode(drawn, true));
  $("from").textContent = picture.from ? new Date(picture.from * 1000).toLocaleString() : "";
  $("to").textContent = picture.to ? new Date(picture.to * 1000).toLocaleString() : "";
  $("found").textContent = `${made.matching} of the last ${made.read} records match` + (made.records.length < made.matching ? `; the newest ${made.records.length} are shown` : "");
  fill(
    "results",
    made.records.filter((record) => record.seq !== undefined).map((record) => {
      const link = element("a", record.seq);
      link.href = `/record/${record.seq}`;
      const cell = element("td", null, "number");
      cell.append(link);
      return line([cell, element("td", new Date(record.timestamp).toLocaleString(), "short"), decision(record), element("td", record.agent_id, "short"), what(record), element("td", record.rule)]);
    }),
    "No record matches."
  );
}

// The one place where markup of the service is read: bars with numbers, nothing of a record.
const pictures = window.trustedTypes ? trustedTypes.createPolicy("picture", { createHTML: (svg) => svg }) : null;
const draw = (svg) => (pictures ? pictures.createHTML(svg) : svg);

async function showTop() {
  const made = await ask(`/api/top${location.search}`);
  const parts = Object.entries(made).flatMap(([agent, rows]) => {
    const table = element("table");
    table.append(element("thead"), element("tbody"));
    table.tHead.append(line([element("th", "times", "number"), element("th", "operation"), element("th", "object"), element("th", "rule")]));
    table.tBodies[0].append(
      ...rows.map((row) => line([element("td", row.count, "number"), element("td", row.operation), element("td", row.object), element("td", row.rule)]))
    );
    const wide = element("div", null, "wide");
    wide.append(table);
    return [element("h2", agent), wide];
  });
  $("refused").replaceChildren(...(parts.length ? parts : [element("p", "Nothing was refused.", "empty")]));
}

async function showRecord() {
  const number = location.pathname.split("/")[2];
  $("seq").textContent = number;
  $("whole").textContent = JSON.stringify(await ask(`/api/record/${encodeURIComponent(number)}`), null, 2);
}

// -- which view

const SHOW = {
  live: async () => {
    follow();
    await showHeld();
    timers.push(setInterval(() => showHeld().catch((error) => say(error.message)), 1000));
  },
  workloads: async () => {
    await showWorkloads();
    timers.push(setInterval(() => showWorkloads().catch((error) => say(error.message)), 5000));
  },
  log: showLog, top: showTop, record: showRecord,
};

function rest() {
  timers.forEach(clearInterval);
  timers = [];
  if (stream) stream.abort();
}

function leave() {
  rest();
  localStorage.removeItem(KEY);
  for (const view of VIEWS) $(view).hidden = true;
  document.querySelector("nav").hidden = $("logout").hidden = $("who").hidden = true;
  $("login").hidden = false;
  $("token").focus();
}

async function enter() {
  rest();
  if (!localStorage.getItem(KEY)) return leave();
  try {
    const state = await ask("/api/state");
    readOnly = state.read_only;
    $("who").textContent = `${state.name}${readOnly ? " (may look)" : ""} on ${state.host}`;
    const first = location.pathname.split("/")[1];
    const here = VIEWS.includes(first) ? first : "live";
    $("login").hidden = true;
    document.querySelector("nav").hidden = $("logout").hidden = $("who").hidden = false;
    for (const view of VIEWS) $(view).hidden = view !== here;
    for (const link of document.querySelectorAll("nav a")) link.className = link.dataset.view === here ? "here" : "";
    await SHOW[here]();
  } catch (error) {
    if (localStorage.getItem(KEY)) say(error.message);
  }
}

$("login").addEventListener("submit", async (event) => {
  event.preventDefault();
  try {
    const made = await post("/api/login", { token: $("token").value.trim() });
    localStorage.setItem(KEY, made.key);
    $("token").value = "";
    say("");
    await enter();
  } catch (error) {
    say(error.message);
  }
});

$("logout").addEventListener("click", async () => {
  await post("/api/logout", {}).catch(() => {});
  leave();
});

$("search").addEventListener("submit", (event) => {
  event.preventDefault();
  const query = new URLSearchParams([...new FormData($("search"))].filter(([, value]) => value));
  history.pushState(null, "", `/log?${query}`);
  showLog().catch((error) => say(error.message));
});

window.addEventListener("popstate", enter);
enter();
