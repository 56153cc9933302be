/** The item of the status bar, and the menu behind it. */
import * as vscode from "vscode";

/** What the server says of itself, and `missing` and `stopped`, where it says nothing. */
export type State = "loading" | "ready" | "busy" | "failed" | "off" | "missing" | "stopped";

const SHOWN: Record<State, [icon: string, what: string]> = {
  loading: ["loading~spin", "the model is being loaded"],
  ready: ["sparkle", "ready"],
  busy: ["sync~spin", "thinking"],
  off: ["circle-slash", "suggestions are off"],
  failed: ["error", "no model could be loaded"],
  missing: ["warning", "no server is installed"],
  stopped: ["error", "the server is not running"],
};

/** What the status bar says. */
export class Status implements vscode.Disposable {
  private readonly item: vscode.StatusBarItem;
  private state: State = "loading";
  private message = "";

  /** `off` are the languages that were switched off; "" stands for all of them. */
  constructor(private readonly off: ReadonlySet<string>) {
    this.item = vscode.window.createStatusBarItem("talaria", vscode.StatusBarAlignment.Right, 100);
    this.item.name = "Talaria";
    this.item.command = "talaria.menu";
    this.set("loading");
    this.item.show();
  }

  /** Say how things are. */
  set(state: State, message = ""): void {
    [this.state, this.message] = [state, message];
    this.draw();
  }

  /** Draw it anew, for the language of the editor that is looked at. */
  draw(): void {
    const language = vscode.window.activeTextEditor?.document.languageId ?? "";
    const idle = this.state === "ready" || this.state === "busy";
    const state = idle && (this.off.has("") || this.off.has(language)) ? "off" : this.state;
    const [icon, what] = SHOWN[state];
    const bad = state === "failed" || state === "stopped" || state === "missing";
    this.item.text = `$(${icon}) Talaria`;
    this.item.tooltip = `Talaria: ${what}${this.message ? ` (${this.message})` : ""}`;
    this.item.accessibilityInformation = { label: this.item.tooltip, role: "button" };
    this.item.backgroundColor = bad
      ? new vscode.ThemeColor("statusBarItem.warningBackground")
      : undefined;
  }

  /** Offer what can be done now; `engine` is what the server counts. */
  async menu(running: boolean, engine: { state: string; requests?: number } | null): Promise<void> {
    const language = vscode.window.activeTextEditor?.document.languageId;
    const turn = (name: string): string => (this.off.has(name) ? "Turn on" : "Turn off");
    const entries: (vscode.QuickPickItem & { command?: string })[] = [];
    if (running) {
      entries.push({ label: `$(power) ${turn("")} suggestions`, command: "talaria.toggle" });
      if (language) {
        const label = `$(file-code) ${turn(language)} suggestions in ${language}`;
        entries.push({ label, command: "talaria.toggleLanguage" });
      }
      entries.push(
        { label: "", kind: vscode.QuickPickItemKind.Separator },
        { label: "$(wand) Write this function", command: "talaria.fillFunction" },
        { label: "$(play) Show how the last answer came about", command: "talaria.showTrace" },
        { label: "", kind: vscode.QuickPickItemKind.Separator },
      );
    } else if (this.state === "missing") {
      entries.push({ label: "$(cloud-download) Install the server…", command: "talaria.install" });
    }
    entries.push(
      { label: "$(debug-restart) Restart the server", command: "talaria.restart" },
      { label: "$(output) Show the log", command: "talaria.showLog" },
      { label: "$(gear) Settings", command: "talaria.openSettings" },
    );
    const counted = engine?.requests === undefined ? "" : ` · ${engine.requests} requests`;
    const what = this.message || SHOWN[this.state][1];
    const picked = await vscode.window.showQuickPick(entries, {
      title: `Talaria: ${what}${counted}`,
    });
    if (picked?.command) {
      await vscode.commands.executeCommand(picked.command);
    }
  }

  dispose(): void {
    this.item.dispose();
  }
}
