// Hover cards ask MathJax to set formulas; pages without formulas do not load it.
window.addEventListener("load", () => {
  if (!window.MathJax?.typesetPromise) window.MathJax = { typesetPromise: () => Promise.resolve() };
});
