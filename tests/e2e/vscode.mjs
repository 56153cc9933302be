// A page of a browser that does what it is told: one line of JSON in, one out.
// `node vscode.mjs CHROMIUM ADDRESS`; each line is `{"code": …, "args": […]}`, the body of an
// asynchronous function of `page` and `args`, and is answered with `{"value"}` or `{"error"}`.
import { createRequire } from "node:module";
import { createInterface } from "node:readline";

const { chromium } = createRequire(
  new URL("../../editors/vscode/package.json", import.meta.url),
)("playwright-core");
const [executablePath, address] = process.argv.slice(2);
const browser = await chromium.launch({ executablePath, args: ["--no-sandbox"] });
const context = await browser.newContext({ viewport: { width: 960, height: 600 } });
const page = await context.newPage();
page.setDefaultTimeout(30_000);
await page.goto(address);

const Body = Object.getPrototypeOf(async () => {}).constructor;
console.log(JSON.stringify({ value: "ready" }));
for await (const line of createInterface({ input: process.stdin })) {
  const { code, args } = JSON.parse(line);
  try {
    const value = await new Body("page", "args", code)(page, args);
    console.log(JSON.stringify({ value: value ?? null }));
  } catch (error) {
    console.log(JSON.stringify({ error: String(error) }));
  }
}
await browser.close();
