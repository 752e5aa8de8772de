// Hover cards ask MathJax to set formulas; pages without formulas do not load it.
window.addEventListener("load", () => {
  if (!window.MathJax?.typesetPromise) window.MathJax = { typesetPromise: () => Promise.resolve() };
});

// A link to a folded box opens it.
const openTarget = () => document.getElementById(decodeURIComponent(location.hash.slice(1)))?.closest("details")?.setAttribute("open", "");
window.addEventListener("hashchange", openTarget);
openTarget();
