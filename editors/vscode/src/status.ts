/** The status bar item and its menu. */
import { setTimeout as delay } from "node:timers/promises";
import * as vscode from "vscode";

/** The server's state, or `stopped` if there is no server. */
export type State = "loading" | "ready" | "busy" | "failed" | "off" | "stopped";

const SHOWN: Record<State, [icon: string, what: string]> = {
  loading: ["loading~spin", "loading the model"],
  ready: ["sparkle", "ready"],
  busy: ["sync~spin", "thinking"],
  off: ["circle-slash", "suggestions are off"],
  failed: ["error", "no model could be loaded"],
  stopped: ["error", "the server is not running"],
};
const PATIENCE = 1000; // milliseconds to wait for the server before showing the menu

/** The answer to `talaria.status`. */
interface Counts {
  engine: { requests?: number; model?: string; choice?: string };
}

/** The status bar item. */
export class Status implements vscode.Disposable {
  private readonly item: vscode.StatusBarItem;
  private state: State = "loading";
  private message = "";
  private label = "";

  /** `off` has the languages that are switched off; "" means all. */
  constructor(private readonly off: ReadonlySet<string>) {
    this.item = vscode.window.createStatusBarItem("talaria", vscode.StatusBarAlignment.Right, 100);
    this.item.name = "Talaria";
    this.item.command = "talaria.menu";
    this.draw();
    this.item.show();
  }

  /** Show a state. */
  set(state: State, message = ""): void {
    [this.state, this.message] = [state, message];
    this.draw();
  }

  /** Redraw the item for the language of the active editor. */
  draw(): void {
    const language = vscode.window.activeTextEditor?.document.languageId ?? "";
    const idle = this.state === "ready" || this.state === "busy";
    const [icon, what] = SHOWN[idle && this.off.has(language) ? "off" : this.state];
    this.label = `Talaria: ${what}${this.message ? ` (${this.message})` : ""}`;
    this.item.text = `$(${icon}) Talaria`;
    this.item.tooltip = this.label;
    this.item.accessibilityInformation = { label: this.label, role: "button" };
    this.item.backgroundColor =
      icon === "error" ? new vscode.ThemeColor("statusBarItem.warningBackground") : undefined;
  }

  /** Show the actions available now. */
  async menu(): Promise<void> {
    const asked = Promise.resolve(vscode.commands.executeCommand<Counts>("talaria.status"));
    const counts = await Promise.race([asked.catch(() => undefined), delay(PATIENCE, undefined)]);
    const language = vscode.window.activeTextEditor?.document.languageId ?? "";
    const turn = (name: string): string => (this.off.has(name) ? "Turn on" : "Turn off");
    const running = counts !== undefined;
    const here = running && language !== "";
    const stopped = this.state === "stopped";
    const entries: [offered: boolean, label: string, command: string][] = [
      [running, `$(power) ${turn("")} suggestions`, "toggle"],
      [here, `$(file-code) ${turn(language)} suggestions in ${language}`, "toggleLanguage"],
      [running, "", ""], // separator
      [running, "$(wand) Write this function", "fillFunction"],
      [running, "$(play) Replay the last answer", "showTrace"],
      [running, "", ""],
      [stopped, "$(cloud-download) Install the server…", "install"],
      [stopped, "$(folder-opened) Choose the server's program…", "choose"],
      [true, "$(debug-restart) Restart the server", "restart"],
      [true, "$(output) Show the log", "showLog"],
      [true, "$(gear) Settings", "openSettings"],
    ];
    const { Default, Separator } = vscode.QuickPickItemKind;
    const items = entries
      .filter(([offered]) => offered)
      .map(([, label, command]) => ({ label, command, kind: label ? Default : Separator }));
    const { requests, model, choice } = counts?.engine ?? {};
    const title = [
      this.label,
      ...(model ? [`${model} answers`] : []),
      ...(requests === undefined ? [] : [`${requests} requests`]),
    ].join(" · ");
    const how = { title, ...(choice === undefined ? {} : { placeHolder: choice }) };
    const picked = await vscode.window.showQuickPick(items, how);
    if (picked) {
      await vscode.commands.executeCommand(`talaria.${picked.command}`);
    }
  }

  dispose(): void {
    this.item.dispose();
  }
}
