// Runs before the first paint, so that a remembered theme does not flash: hence a classic script in the head.
(() => {
  const KEY = "overspill.theme";
  const ORDER = ["automatic", "light", "dark"];
  const system = matchMedia("(prefers-color-scheme: dark)");
  // Storage may be forbidden; then the choice lasts as long as the page.
  let chosen = "automatic";
  try {
    const kept = localStorage.getItem(KEY);
    if (ORDER.includes(kept)) chosen = kept;
  } catch {}

  function apply() {
    const dark = chosen === "automatic" ? system.matches : chosen === "dark";
    document.documentElement.dataset.theme = dark ? "dark" : "light";
    document.dispatchEvent(new Event("themechange"));
  }

  function label(button) {
    button.querySelector(".theme-word").textContent = chosen;
    button.setAttribute("aria-label", `Theme: ${chosen}`);
    button.title = `Theme: ${chosen}`;
  }

  apply();
  system.addEventListener("change", apply);
  document.addEventListener("DOMContentLoaded", () => {
    const button = document.getElementById("theme");
    label(button);
    button.addEventListener("click", () => {
      chosen = ORDER[(ORDER.indexOf(chosen) + 1) % ORDER.length];
      try {
        localStorage.setItem(KEY, chosen);
      } catch {}
      label(button);
      apply();
    });
  });
})();
