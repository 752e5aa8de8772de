// The callback of try_it.py: a changed rule or threshold is counted again on the same predictions.
// Given: rule, cut, millimetres (widgets), labels (rule -> "1", "0" or "-" per nodule), scores (of each
// row its seeds, of each seed a number or null per nodule), curves and points (column data sources).
const drawn = labels[rule.value];
const kept = [...drawn].map((_, i) => i)
  .filter(i => drawn[i] !== "-" && scores.every(seeds => seeds.every(one => one[i] !== null)));
const truth = kept.map(i => drawn[i] === "1");

function roc(score) {
  const order = truth.map((_, i) => i).sort((a, b) => score[b] - score[a]);
  const x = [0], y = [0];
  let fp = 0, tp = 0, area = 0;
  for (let i = 0; i < order.length;) { // nodules of equal score become malignant together
    const value = score[order[i]], before = [fp, tp];
    for (; i < order.length && score[order[i]] === value; i++) truth[order[i]] ? tp++ : fp++;
    area += (fp - before[0]) * (tp + before[1]) / 2;
    x.push(fp); y.push(tp);
  }
  return {x: x.map(one => one / fp), y: y.map(one => one / tp), auc: area / (fp * tp)};
}

const out = document.getElementById("try-it-numbers");
const show = (name, row, text) => { out.querySelector(`[data-${name}="${row}"]`).textContent = text; };
const whole = number => number.toLocaleString("en-US");
const place = {x: [], y: []};
scores.forEach((seeds, row) => {
  const scored = seeds.map(one => kept.map(i => one[i]));
  const found = scored.map(roc);
  const threshold = row === scores.length - 1 ? millimetres.value : cut.value;
  const count = (called, is) => truth.filter((one, i) => one === is && (scored[0][i] >= threshold) === called).length;
  const [tp, fp, fn, tn] = [count(true, true), count(true, false), count(false, true), count(false, false)];
  curves[row].data = {x: found[0].x, y: found[0].y};
  place.x.push(fp / (fp + tn));
  place.y.push(tp / (tp + fn));
  show("auc", row, (found.reduce((sum, one) => sum + one.auc, 0) / found.length).toFixed(3));
  Object.entries({tp, fp, fn, tn}).forEach(([name, number]) => show(name, row, whole(number)));
  Object.entries({sensitivity: tp / (tp + fn), specificity: tn / (tn + fp), accuracy: (tp + tn) / kept.length})
    .forEach(([name, share]) => show(name, row, `${(100 * share).toFixed(1)} %`));
});
points.data = {...points.data, ...place};
show("n", "all", whole([...drawn].filter(one => one !== "-").length));
show("n", "kept", whole(kept.length));
show("n", "malignant", whole(truth.filter(Boolean).length));
// Bokeh gives the handle of a slider no name for a screen reader.
for (const one of [cut, millimetres])
  Bokeh.index.find_one(one).shadow_el.querySelector(".noUi-handle").setAttribute("aria-label", one.title);
