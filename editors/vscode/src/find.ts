/** Finds the server, or installs it. */
import { execFile } from "node:child_process";
import { constants } from "node:fs";
import { access, stat } from "node:fs/promises";
import { homedir } from "node:os";
import * as path from "node:path";
import { promisify } from "node:util";
import * as vscode from "vscode";

const WINDOWS = process.platform === "win32";
const NAME = WINDOWS ? "talaria.exe" : "talaria";
const SCRIPTS = WINDOWS ? "Scripts" : "bin";

/** The server's program, or why none was found. */
export type Found = { program: string } | { missing: string };

/**
 * Uses only the setting if it is set; otherwise searches the workspace's virtual environments, the
 * folder of `python.defaultInterpreterPath`, PATH, and the environment made by `install`. Programs
 * that a workspace names or contains are used only if the user trusts it.
 */
export async function find(storage: vscode.Uri): Promise<Found> {
  const { isTrusted, workspaceFolders = [] } = vscode.workspace;
  const chosen = setting("talaria.server_path");
  const environments = workspaceFolders.flatMap(({ uri }) =>
    [".venv", "venv", "env"].map((name) => path.join(uri.fsPath, name, SCRIPTS)),
  );
  const places = [
    ...(isTrusted ? [...environments, path.dirname(setting("python.defaultInterpreterPath"))] : []),
    ...(process.env.PATH ?? "").split(path.delimiter),
    path.join(environmentOf(storage), SCRIPTS),
  ];
  const programs = places
    .map((place) => path.join(place, NAME))
    .filter((each) => path.isAbsolute(each));
  for (const program of chosen ? [chosen] : programs) {
    if (await runs(program)) {
      return { program };
    }
  }
  if (chosen) {
    return { missing: `talaria.server_path is ${chosen}, which is not an executable program` };
  }
  const where = isTrusted
    ? "neither in a virtual environment of the workspace nor on PATH"
    : "not on PATH, and the workspace is searched only if you trust it";
  return { missing: `the program \`talaria\` is ${where}` };
}

/** Lets the user choose the server's program and stores it as the setting. */
export async function choose(): Promise<void> {
  const file = await vscode.window.showOpenDialog({ title: "The program `talaria`" });
  if (file?.[0]) {
    const settings = vscode.workspace.getConfiguration("talaria");
    await settings.update("server_path", file[0].fsPath, vscode.ConfigurationTarget.Global);
  }
}

/** Installs the server from a clone of its repository into the extension's own environment. */
export async function install(storage: vscode.Uri, log: vscode.LogOutputChannel): Promise<void> {
  const folder = await vscode.window.showOpenDialog({
    title: "The folder with Talaria's repository",
    openLabel: "Install from Here",
    canSelectFolders: true,
    canSelectFiles: false,
  });
  if (!folder?.[0]) {
    return;
  }
  const source = folder[0].fsPath;
  const constraints = path.join(source, "constraints.txt");
  const own = environmentOf(storage);
  const title = "Talaria: installing the server; this takes a minute";
  const progress = { location: vscode.ProgressLocation.Notification, title, cancellable: true };
  const stop = new AbortController();
  const run = async (program: string, ...args: string[]): Promise<void> => {
    log.info([program, ...args].join(" "));
    const running = promisify(execFile)(program, args, { signal: stop.signal });
    running.child.stdout?.on("data", (text) => log.info(String(text).trimEnd()));
    running.child.stderr?.on("data", (text) => log.error(String(text).trimEnd()));
    await running;
  };
  try {
    await vscode.window.withProgress(progress, async (_, token) => {
      token.onCancellationRequested(() => stop.abort());
      await run(WINDOWS ? "python" : "python3", "-m", "venv", own);
      const pip = ["-m", "pip", "install", "--disable-pip-version-check", "--progress-bar=off"];
      await run(path.join(own, SCRIPTS, "python"), ...pip, "--constraint", constraints, source);
    });
    await vscode.commands.executeCommand("talaria.restart");
  } catch (error) {
    const why = (error as Error).message.trim().split("\n").at(-1) ?? "";
    const needed =
      "Installing needs the repository's folder, and Python 3.11 or newer, with venv, as python3";
    const message = `Talaria: could not install the server: ${why}. ${needed}.`;
    if (!stop.signal.aborted && (await vscode.window.showErrorMessage(message, "Show Log"))) {
      log.show();
    }
  }
}

/** A path setting with abbreviations expanded; empty if it is unset or not a string. */
function setting(name: string): string {
  const written = vscode.workspace.getConfiguration().get<unknown>(name);
  const folder = vscode.workspace.workspaceFolders?.[0]?.uri.fsPath ?? "";
  return (typeof written === "string" ? written : "")
    .replace(/^~(?=[/\\])/, () => homedir())
    .replaceAll("${workspaceFolder}", () => folder);
}

function environmentOf(storage: vscode.Uri): string {
  return path.join(storage.fsPath, "server");
}

/** Whether there is an executable file. */
async function runs(program: string): Promise<boolean> {
  return Promise.all([stat(program), access(program, constants.X_OK)]).then(
    ([found]) => found.isFile(),
    () => false,
  );
}
