"use strict";
// Counts down by itself, and asks the app each second while the tab is to stay active.
(() => {
  const live = document.getElementById("live");
  for (const time of document.querySelectorAll("time[data-at]")) {
    time.textContent = clock(Number(time.dataset.at));
  }
  if (!live) return;

  const $ = (id) => document.getElementById(id);
  const seen = {
    endsAt: Date.now() + Number(live.dataset.left) * 1000,
    life: Number(live.dataset.life) || 1,
    known: Number(live.dataset.expires) > 0,
    renewals: Number(live.dataset.renewals),
    newest: "",
  };
  let mode = "active";
  let asking = false;
  let over = false;

  function clock(seconds) {
    return new Date(seconds * 1000).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit", second: "2-digit" });
  }

  function draw() {
    const ms = Math.max(0, seen.endsAt - Date.now());
    const left = Math.ceil(ms / 1000);
    const share = Math.min(100, (ms / 1000 / seen.life) * 100);
    $("left").textContent = seen.known ? String(left) : "?";
    $("unit").textContent = over ? "session over" : !seen.known ? "no expiry came" : left === 1 ? "second left" : "seconds left";
    $("arc").setAttribute("stroke-dashoffset", String(100 - share));
    live.classList.toggle("low", seen.known && share <= 25 && left > 0);
    live.classList.toggle("spent", over || (seen.known && left === 0));
    $("renewals").textContent = String(seen.renewals);
    $("renewals-word").textContent = seen.renewals === 0 ? "renewals so far"
      : seen.renewals === 1 ? "renewal, and you did not notice" : "renewals, and you noticed none";
    explain(left);
  }

  function explain(left) {
    const text = over ? "Nothing more is asked. What you see is what was there last."
      : mode === "active" ? "The page asks once a second, as a busy user would. Watch the count jump back up: the gateway renews before the token runs out."
      : left > 0 ? "Nothing is asked, as if you had gone for tea. Nobody renews a token for a user who is away."
      : "The token has run out. Come back: the gateway renews if it still may, and otherwise asks you to sign in.";
    if ($("explain").textContent !== text) $("explain").textContent = text;
  }

  function choose(next) {
    mode = next;
    $("active").setAttribute("aria-pressed", String(mode === "active"));
    $("idle").setAttribute("aria-pressed", String(mode === "idle"));
    draw();
    if (mode === "active") ask();
  }

  function say(text, link) {
    const notice = $("notice");
    notice.replaceChildren(text);
    if (!link) return;
    const a = document.createElement("a");
    a.href = link;
    a.textContent = "Sign in again";
    notice.append(" ", a);
  }

  async function ask() {
    if (asking || over) return;
    asking = true;
    try {
      const answer = await fetch("/status", {
        headers: { accept: "application/json" }, cache: "no-store", redirect: "manual", signal: AbortSignal.timeout(10000),
      });
      if (answer.status === 401 || answer.type === "opaqueredirect") return await ended(answer);
      if (!answer.ok) return say("The gateway answered " + answer.status + ". The session is kept; asking again.");
      take(await answer.json());
    } catch {
      say("No answer just now. The session is kept; asking again.");
    } finally {
      asking = false;
      draw();
    }
  }

  function take(now) {
    if (now.user === null) return end("Nobody is signed in here any more.", location.href);
    say("");
    const renewed = now.renewals > seen.renewals;
    seen.known = now.expires !== null;
    seen.endsAt = Date.now() + now.left * 1000;
    seen.life = now.life || 1;
    seen.renewals = now.renewals;
    list(now.happened);
    if (renewed) pulse();
  }

  // The gateway tells a script with 401 where to sign in; anything but a web address is not followed.
  async function ended(answer) {
    let link = location.href;
    try {
      const login = new URL((await answer.json()).login, location.href);
      if (login.protocol === "https:" || login.protocol === "http:") link = login.href;
    } catch { /* no usable answer: the page itself leads to the login page */ }
    end("Your session has ended.", link);
  }

  function end(text, link) {
    over = true;
    mode = "idle";
    seen.endsAt = Date.now();
    for (const id of ["active", "idle"]) $(id).disabled = true;
    say(text, link);
    draw();
  }

  function list(happened) {
    const newest = JSON.stringify(happened);
    if (newest === seen.newest) return;
    seen.newest = newest;
    $("happened").replaceChildren(...happened.map((one) => {
      const item = document.createElement("li");
      const time = document.createElement("time");
      const what = document.createElement("span");
      time.textContent = clock(one.at);
      what.textContent = one.what;
      item.append(time, what);
      return item;
    }));
  }

  function pulse() {
    live.classList.remove("pulse");
    requestAnimationFrame(() => requestAnimationFrame(() => live.classList.add("pulse")));
  }

  for (const id of ["active", "idle"]) {
    $(id).disabled = false;
    $(id).addEventListener("click", () => choose(id));
  }
  choose(new URLSearchParams(location.search).has("idle") ? "idle" : "active");
  setInterval(draw, 200);
  setInterval(() => { if (mode === "active") ask(); }, 1000);
})();
