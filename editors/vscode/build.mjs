// Bundles the extension: `node build.mjs [--minify | --watch]`.
import { copyFileSync, existsSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import esbuild from "esbuild";

const flags = process.argv.slice(2);
const context = await esbuild.context({
  entryPoints: ["src/extension.ts"],
  outfile: "dist/extension.js",
  bundle: true,
  format: "cjs",
  platform: "node",
  target: "node20",
  external: ["vscode"],
  minify: flags.includes("--minify"),
  sourcemap: flags.includes("--minify") ? false : "linked",
  metafile: true,
  logLevel: "info",
});
if (flags.includes("--watch")) {
  await context.watch();
} else {
  const { metafile } = await context.rebuild();
  writeFileSync("dist/third-party.txt", licences(Object.keys(metafile.inputs)));
  await context.dispose();
}
// The package carries the licence under which it is given.
copyFileSync(new URL("../../LICENSE", import.meta.url), "LICENSE");

/** The licences of the packages that these files are of. */
function licences(files) {
  const folders = files.map((file) => /^.*node_modules\/(?:@[^/]+\/)?[^/]+/.exec(file)?.[0]);
  return [...new Set(folders)]
    .filter((folder) => folder && existsSync(`${folder}/package.json`))
    .sort()
    .map((folder) => {
      const { name, version, license } = JSON.parse(readFileSync(`${folder}/package.json`, "utf8"));
      const file = readdirSync(folder).find((each) => /^licen[cs]e/i.test(each));
      const text = file ? readFileSync(`${folder}/${file}`, "utf8") : "";
      return `${name} ${version}: ${license}\n\n${text}`;
    })
    .join(`\n${"-".repeat(80)}\n\n`);
}
