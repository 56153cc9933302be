/** Where the server is, and how it is installed where it is not. */
import { execFile } from "node:child_process";
import { constants } from "node:fs";
import { access } from "node:fs/promises";
import * as path from "node:path";
import { promisify } from "node:util";
import * as vscode from "vscode";
import { resolved, serverPath } from "./options";

const run = promisify(execFile);
const WINDOWS = process.platform === "win32";
const NAME = WINDOWS ? "talaria.exe" : "talaria";
const SCRIPTS = WINDOWS ? "Scripts" : "bin";

/** The server's program, or why there is none. */
export type Found = { program: string } | { missing: string };

/**
 * Looks at the setting, then at virtual environments of the workspace, at the Python extension's
 * interpreter, at PATH, and at what `install` made. What a workspace names or brings along is run
 * only if the user trusts it.
 */
export async function find(storage: vscode.Uri): Promise<Found> {
  const chosen = serverPath();
  if (chosen) {
    const missing = `talaria.server_path is ${chosen}; no program is there that can be run`;
    return (await runs(chosen)) ? { program: chosen } : { missing };
  }
  const places: string[] = [];
  if (vscode.workspace.isTrusted) {
    for (const folder of vscode.workspace.workspaceFolders ?? []) {
      for (const environment of [".venv", "venv", "env"]) {
        places.push(path.join(folder.uri.fsPath, environment, SCRIPTS));
      }
    }
    const python = vscode.workspace.getConfiguration("python");
    const interpreter = resolved(python.get<string>("defaultInterpreterPath") ?? "");
    if (path.isAbsolute(interpreter)) {
      places.push(path.dirname(interpreter));
    }
  }
  places.push(
    ...(process.env.PATH ?? "").split(path.delimiter).filter((each) => path.isAbsolute(each)),
  );
  places.push(path.join(environmentOf(storage), SCRIPTS));
  for (const place of places) {
    const program = path.join(place, NAME);
    if (await runs(program)) {
      return { program };
    }
  }
  return {
    missing:
      "the program `talaria` is neither in a virtual environment of the workspace nor on PATH",
  };
}

/** Says that there is no server and offers what helps. */
export async function offerToInstall(storage: vscode.Uri, missing: string): Promise<void> {
  const install = "Install…";
  const choose = "Choose Program…";
  const answer = await vscode.window.showWarningMessage(`Talaria: ${missing}.`, install, choose);
  if (answer === install) {
    await installServer(storage);
  } else if (answer === choose) {
    const found = await vscode.window.showOpenDialog({ title: "The program `talaria`" });
    if (found?.[0]) {
      const settings = vscode.workspace.getConfiguration("talaria");
      await settings.update("server_path", found[0].fsPath, vscode.ConfigurationTarget.Global);
    }
  }
}

/** Installs the server from a copy of its repository into an environment of the extension's. */
export async function installServer(storage: vscode.Uri): Promise<void> {
  const folder = await vscode.window.showOpenDialog({
    title: "The folder of Talaria's repository",
    openLabel: "Install from Here",
    canSelectFolders: true,
    canSelectFiles: false,
  });
  if (!folder?.[0]) {
    return;
  }
  const source = folder[0].fsPath;
  const own = environmentOf(storage);
  const constraints = path.join(source, "constraints.txt");
  const progress = { location: vscode.ProgressLocation.Notification, title: "Talaria" };
  try {
    await vscode.window.withProgress(progress, async (told) => {
      told.report({ message: "installing the server; torch is large, this takes minutes" });
      await access(constraints);
      await run(WINDOWS ? "python" : "python3", ["-m", "venv", own]);
      const pip = ["-m", "pip", "install", "--constraint", constraints, source];
      await run(path.join(own, SCRIPTS, "python"), pip);
    });
  } catch (error) {
    const why = error instanceof Error ? error.message : String(error);
    void vscode.window.showErrorMessage(`Talaria: the server could not be installed. ${why}`);
    return;
  }
  await vscode.commands.executeCommand("talaria.restart");
}

function environmentOf(storage: vscode.Uri): string {
  return path.join(storage.fsPath, "server");
}

async function runs(program: string): Promise<boolean> {
  return access(program, constants.X_OK).then(
    () => true,
    () => false,
  );
}
