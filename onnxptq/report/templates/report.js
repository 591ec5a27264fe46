const table = document.getElementById("sites"), body = table.tBodies[0], rows = [...body.rows];
const text = document.getElementById("text"), role = document.getElementById("role"), part = document.getElementById("part");
const shown = document.getElementById("shown");
function filter() {
  let count = 0;
  for (const row of rows) {
    const wanted = row.textContent.toLowerCase().includes(text.value.toLowerCase())
      && (!role.value || row.dataset.role === role.value) && (!part.value || row.dataset.part === part.value);
    row.hidden = !wanted;
    count += wanted;
  }
  shown.textContent = count + " of " + rows.length;
}
for (const field of [text, role, part]) field.addEventListener("input", filter);
table.tHead.addEventListener("click", event => {
  const head = event.target.closest("th");
  if (!head) return;
  const up = head.getAttribute("aria-sort") !== "ascending";
  for (const other of head.parentNode.cells) other.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", up ? "ascending" : "descending");
  const key = row => row.cells[head.cellIndex].dataset.v ?? row.cells[head.cellIndex].textContent;
  const numeric = head.classList.contains("number");
  rows.sort((a, b) => (up ? 1 : -1) * (numeric ? key(a) - key(b) : key(a).localeCompare(key(b), "en", { numeric: true })));
  body.append(...rows);
});
filter();
