{ // A block: Sphinx may name this file twice.
// Hover cards ask MathJax to set formulas; pages without formulas do not load it.
window.addEventListener("load", () => {
  if (!window.MathJax?.typesetPromise) window.MathJax = { typesetPromise: () => Promise.resolve() };
});

// A link to a folded box opens it.
const openTarget = () => document.getElementById(decodeURIComponent(location.hash.slice(1)))?.closest("details")?.setAttribute("open", "");
window.addEventListener("hashchange", openTarget);
openTarget();

// The theme's arrows in the table of contents have no text for a screen reader.
window.addEventListener("load", () => {
  for (const arrow of document.querySelectorAll("li > details > summary"))
    if (!arrow.textContent.trim())
      arrow.setAttribute("aria-label", `Pages of ${arrow.closest("li").querySelector("a")?.textContent.trim()}`);
});
}
