/** Settings of the editor, as the server's options. */
import * as vscode from "vscode";

/** Settings that are this extension's alone; the server knows all the others by the same names. */
const OURS = new Set(["server_path"]);

interface Manifest {
  contributes: { configuration: { properties: Record<string, unknown> } };
}

/** The server's options, by the names that package.json declares. */
export function serverOptions(extension: vscode.Extension<unknown>): Record<string, unknown> {
  const { contributes } = extension.packageJSON as Manifest;
  const settings = vscode.workspace.getConfiguration("talaria");
  const declared = Object.keys(contributes.configuration.properties);
  const names = declared.map((name) => name.slice("talaria.".length));
  const given = names.filter((name) => !OURS.has(name)).map((name) => [name, settings.get(name)]);
  return { ...(Object.fromEntries(given) as Record<string, unknown>), status: true };
}

/** How the setting reads, with `~` and `${workspaceFolder}` resolved; nothing where it is unset. */
export function serverPath(): string | undefined {
  const path = vscode.workspace.getConfiguration("talaria").get<string | null>("server_path");
  return path ? resolved(path) : undefined;
}

/** A path of a setting without its abbreviations. */
export function resolved(path: string): string {
  const folder = vscode.workspace.workspaceFolders?.[0]?.uri.fsPath ?? "";
  const home = process.env.HOME ?? process.env.USERPROFILE ?? "~";
  return path.replace(/^~(?=[/\\])/, () => home).replaceAll("${workspaceFolder}", () => folder);
}
