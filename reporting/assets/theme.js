"use strict";
// Light or dark: as the system has it, unless the reader chose. Runs before the page is drawn, so that nothing flashes.

(() => {
  const KEY = "sightread-theme";

  // Some browsers give pages from disk no storage; the choice then lasts as long as the page.
  const stored = () => { try { return localStorage.getItem(KEY); } catch { return null; } };
  const store = (value) => { try { localStorage.setItem(KEY, value); } catch { return; } };

  const apply = (theme) => {
    if (theme === "light" || theme === "dark") document.documentElement.dataset.theme = theme;
    else delete document.documentElement.dataset.theme;
  };

  apply(stored());
  addEventListener("DOMContentLoaded", () => {
    const select = document.getElementById("theme");
    if (!select) return;
    select.value = document.documentElement.dataset.theme || "auto";
    select.parentElement.hidden = false;
    select.addEventListener("change", () => { apply(select.value); store(select.value); });
  });
})();
