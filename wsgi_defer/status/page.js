"use strict";
// Keeps the page live: fetches it anew each second, and changes what differs. What it
// looks like is decided in one place, the server. Nothing is asked while the tab is
// hidden. A form that the pointer or the focus is on stays where it is.
const live = document.getElementById("live");
const button = document.getElementById("pause");
let paused = false;
let timer = 0;

const say = (text, state) => {
  document.body.className = state;
  if (live.textContent !== text) live.textContent = text;
};

const next = () => {
  clearTimeout(timer);
  if (!paused && !document.hidden) timer = setTimeout(update, 1000);
};

const update = async () => {
  clearTimeout(timer);
  try {
    const answer = await fetch(location.href, { signal: AbortSignal.timeout(10000) });
    if (answer.status === 403) {
      say("No longer allowed to see this page", "down");
    } else if (!answer.ok) {
      say(`The app answers ${answer.status}`, "down");
    } else {
      const text = await answer.text();
      if (paused) return;
      show(new DOMParser().parseFromString(text, "text/html"));
      say("Live", "live");
    }
  } catch {
    say("No answer; still trying", "down");
  }
  next();
};

const show = (now) => {
  document.title = now.title;
  const held = document.querySelector("form:hover, form:focus-within");
  const kept = held && held.closest("section");
  if (kept) now.getElementById(kept.id)?.replaceWith(kept.cloneNode(true));
  change(document.querySelector("main"), now.querySelector("main"));
};

// Make an element equal to another one. Children with an id keep their identity.
const change = (old, now) => {
  for (const { name } of [...old.attributes])
    if (!now.hasAttribute(name)) old.removeAttribute(name);
  for (const { name, value } of now.attributes)
    if (old.getAttribute(name) !== value) old.setAttribute(name, value);
  const wanted = new Set([...now.children].map((each) => each.id));
  let at = old.firstChild;
  const drop = () => {
    const gone = at;
    at = at.nextSibling;
    gone.remove();
  };
  for (const child of [...now.childNodes]) {
    while (at && at.id && !wanted.has(at.id)) drop();
    const same = child.id
      ? [...old.children].find((each) => each.id === child.id)
      : at && !at.id && at.nodeName === child.nodeName && at;
    if (!same) {
      old.insertBefore(document.importNode(child, true), at);
      continue;
    }
    if (same === at) at = at.nextSibling;
    else old.insertBefore(same, at);
    if (child.nodeType === Node.ELEMENT_NODE) change(same, child);
    else if (same.data !== child.data) same.data = child.data;
  }
  while (at) drop();
};

button.addEventListener("click", () => {
  paused = !paused;
  button.textContent = paused ? "Resume" : "Pause";
  if (paused) {
    clearTimeout(timer);
    say("Paused", "");
  } else {
    update();
  }
});
document.addEventListener("visibilitychange", () => (document.hidden ? next() : update()));
button.hidden = false;
say("Live", "live");
next();
