// Compresses the built page, file by file, into the folder that the program embeds,
// and prints what the first load and all of it weigh: pack.mjs FROM TO
import { mkdirSync, readFileSync, readdirSync, rmSync, statSync, writeFileSync } from "node:fs";
import { dirname, join, relative } from "node:path";
import { gzipSync } from "node:zlib";

const limit = 400; // kB of the first load
const [from, to] = process.argv.slice(2);
const list = (dir) =>
  readdirSync(dir).flatMap((name) => {
    const path = join(dir, name);
    return statSync(path).isDirectory() ? list(path) : [path];
  });

for (const name of readdirSync(to)) {
  if (!name.startsWith(".")) rmSync(join(to, name), { recursive: true });
}
const page = readFileSync(join(from, "index.html"), "utf8");
let first = 0;
let all = 0;
for (const path of list(from)) {
  const name = relative(from, path);
  const packed = gzipSync(readFileSync(path), { level: 9 });
  packed[9] = 255; // the same on every system
  mkdirSync(dirname(join(to, name)), { recursive: true });
  writeFileSync(join(to, `${name}.gz`), packed);
  all += packed.length;
  if (name === "index.html" || page.includes(name)) first += packed.length;
}
const kB = (bytes) => Math.ceil(bytes / 1000);
console.log(`dashboard: first load ${kB(first)} kB, all ${kB(all)} kB compressed`);
if (kB(first) > limit) {
  console.error(`dashboard: the first load is more than ${limit} kB`);
  process.exit(1);
}
