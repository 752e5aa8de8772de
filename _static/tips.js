{ // A block: Sphinx may name this file twice.
// Hover cards ask MathJax to set formulas; pages without formulas do not load it.
window.addEventListener("load", () => {
  if (!window.MathJax?.typesetPromise) window.MathJax = { typesetPromise: () => Promise.resolve() };
});

// A link to a folded box opens it.
const openTarget = () => document.getElementById(decodeURIComponent(location.hash.slice(1)))?.closest("details")?.setAttribute("open", "");
window.addEventListener("hashchange", openTarget);
openTarget();

// On a narrow screen a figure that would shrink to less than 0.58 of its size scrolls instead.
window.addEventListener("load", () => {
  for (const image of document.querySelectorAll(".bd-article figure .whole-picture > img")) {
    const link = image.parentElement, room = link.parentElement.clientWidth;
    if (window.innerWidth > 600 || 0.58 * image.naturalWidth <= room) continue;
    image.style.width = `${Math.round(0.72 * image.naturalWidth)}px`;
    link.classList.add("scrolls");
  }
});

// A table or equation that is wider than its place, by more than an edge, says that it scrolls; of a folded one this is known once it is opened.
const wide = new ResizeObserver(all => requestAnimationFrame(() => {
  for (const { target } of all) {
    const one = target.querySelector(":scope > mjx-container") ?? target; // MathJax's box scrolls by itself
    target.classList.toggle("scrolls", one.scrollWidth > one.clientWidth + 4);
  }
}));
window.addEventListener("load", () => {
  for (const one of document.querySelectorAll(".bd-article :is(.pst-scrollable-table-container, .text_html, div.math)")) wide.observe(one);
});

// A solution and its words open together.
for (const code of document.querySelectorAll("details.hide")) {
  const words = code.closest(".cell")?.nextElementSibling;
  if (words?.matches("details.sd-dropdown") && /^\s*Solution/.test(words.querySelector("summary").textContent))
    code.addEventListener("toggle", () => { words.open = code.open; });
}

// The theme's arrows in the table of contents have no text for a screen reader.
window.addEventListener("load", () => {
  for (const arrow of document.querySelectorAll("li > details > summary"))
    if (!arrow.textContent.trim())
      arrow.setAttribute("aria-label", `Pages of ${arrow.closest("li").querySelector("a")?.textContent.trim()}`);
});
}
