/** Talaria in VS Code: starts the language server, which does the work, and shows its state. */
import { readFile } from "node:fs/promises";
import * as vscode from "vscode";
import { CloseAction, ErrorAction, LanguageClient } from "vscode-languageclient/node";
import { contributes } from "../package.json";
import { choose, find, install } from "./find";
import { Live, type Step } from "./live";
import { Status, type State } from "./status";

const OFF = "off"; // key in the workspace state for the languages that are switched off
const LEVEL = "talaria.log_level";
const OURS = ["talaria.server_path", LEVEL]; // settings that are not server options
const PLACED = ["talaria.fillFunction", "talaria.fillHere", "talaria.rewrite"]; // commands that need a place
const GENERAL = ["talaria.toggle", "talaria.status"]; // commands without arguments

// A server that exits unexpectedly is restarted; the delay doubles each time.
const SHORTEST = 500; // milliseconds
const SPAN = 180_000; // milliseconds
const MOST = 5; // restarts within the span, after which the server stays stopped

const HELP = { "Install…": "talaria.install", "Choose Program…": "talaria.choose" };
/** The function that the walkthrough writes. */
const STUB = 'def mean(values):\n    """Return the mean."""\n    ...\n';

let talaria: Talaria | undefined;

export function activate(context: vscode.ExtensionContext): void {
  talaria = new Talaria(context);
  void talaria.restart();
}

export async function deactivate(): Promise<void> {
  await talaria?.stop();
}

/** The library's client, with its errors logged only: Talaria shows its own messages. */
class Client extends LanguageClient {
  override error(message: string, data?: unknown): void {
    super.error(message, data, false);
  }
}

/** One server at a time, and its user interface. */
class Talaria {
  private readonly log = vscode.window.createOutputChannel("Talaria", { log: true });
  private readonly live = new Live();
  private readonly off: Set<string>;
  private readonly offered = new Set<string>(); // URIs of documents that show our ghost text
  private readonly status: Status;
  private client: LanguageClient | undefined;
  private ends: number[] = []; // times of unexpected exits
  private again: NodeJS.Timeout | undefined;
  private starting: Promise<void> = Promise.resolve();

  constructor(private readonly context: vscode.ExtensionContext) {
    this.off = new Set(context.workspaceState.get<string[]>(OFF));
    this.status = new Status(this.off);
    const on = vscode.commands.registerCommand;
    context.subscriptions.push(
      this.log,
      this.live,
      this.status,
      on("talaria.menu", () => this.status.menu()),
      on("talaria.restart", () => this.restart()),
      on("talaria.install", () => install(context.globalStorageUri, this.log)),
      on("talaria.choose", choose),
      on("talaria.showLog", () => this.log.show()),
      on("talaria.openSettings", () =>
        vscode.commands.executeCommand("workbench.action.openSettings", "@ext:talaria.talaria"),
      ),
      on("talaria.toggleLanguage", () => {
        const language = vscode.window.activeTextEditor?.document.languageId;
        return language && vscode.commands.executeCommand("talaria.toggle", language);
      }),
      on("talaria.sample", () => this.sample()),
      on("talaria.dismiss", () => this.dismiss()),
      vscode.window.onDidChangeActiveTextEditor(() => this.status.draw()),
      vscode.workspace.onDidGrantWorkspaceTrust(() => this.restart()),
      vscode.workspace.onDidChangeConfiguration((event) => this.configure(event)),
    );
  }

  /** Start or restart the server; concurrent calls run one after the other. */
  async restart(ends: number[] = []): Promise<void> {
    this.ends = ends;
    this.status.set("loading");
    this.starting = this.starting
      .then(() => this.stop())
      .then(() => this.start())
      .catch((error: unknown) => void this.stopped(String(error), HELP));
    await this.starting;
  }

  async stop(): Promise<void> {
    clearTimeout(this.again);
    const client = this.forget();
    await client?.dispose().catch((error: unknown) => this.log.info(String(error)));
  }

  private async start(): Promise<void> {
    const found = await find(this.context.globalStorageUri);
    if ("missing" in found) {
      void this.stopped(found.missing, HELP);
      return;
    }
    this.log.info(`server: ${found.program}`);
    const client = (this.client = this.made(found.program));
    // Not awaited: a program that never answers would block every later restart.
    client.start().then(
      () => this.began(client),
      () => this.ended(client),
    );
  }

  private made(program: string): LanguageClient {
    const level = vscode.workspace.getConfiguration().get<string>(LEVEL) ?? "warning";
    const server = { command: program, args: ["lsp", "--log-level", level] };
    const client = new Client("talaria", "Talaria", server, {
      documentSelector: ["file", "untitled", "vscode-notebook-cell"].map((scheme) => ({ scheme })),
      outputChannel: this.log,
      initializationOptions: options,
      initializationFailedHandler: () => false,
      errorHandler: {
        error: () => ({ action: ErrorAction.Continue }), // a serious error closes the connection
        closed: () => {
          this.ended(client);
          return { action: CloseAction.DoNotRestart, message: "the connection is closed" };
        },
      },
      middleware: {
        executeCommand: async (command, given, next) => {
          try {
            const answer: unknown = await next(command, given.length ? given : place(command));
            if (command === "talaria.toggle" && typeof answer === "boolean") {
              await this.toggled(String(given[0] ?? ""));
            }
            return answer;
          } finally {
            if (PLACED.includes(command)) {
              this.live.clear();
            }
          }
        },
        provideInlineCompletionItems: async (document, position, context, token, next) => {
          const found = await next(document, position, context, token);
          if (!token.isCancellationRequested) {
            this.offered[found ? "add" : "delete"](document.uri.toString());
          }
          return found;
        },
        workspace: {
          handleApplyEdit: async (params, next) => {
            await this.live.seen();
            return next(params, new vscode.CancellationTokenSource().token);
          },
        },
        window: {
          showDocument: (params, token, next) =>
            params.uri.endsWith(".html") ? showPage(params.uri) : next(params, token),
        },
      },
    });
    client.onNotification("talaria/status", (now: { state: State; message: string }) =>
      this.status.set(now.state, now.message),
    );
    client.onNotification("talaria/step", (step: Step) => this.live.show(step));
    return client;
  }

  private began(client: LanguageClient): void {
    if (client === this.client) {
      void vscode.commands.executeCommand("setContext", "talaria.running", true);
      // A new server does not know what is switched off.
      for (const name of this.off) {
        const what = { command: "talaria.toggle", arguments: [name] };
        void client.sendRequest("workspace/executeCommand", what);
      }
    }
  }

  /** A server has exited; unless we stopped it, restart it, with a growing delay. */
  private ended(client: LanguageClient): void {
    if (client !== this.client) {
      return;
    }
    this.forget();
    const now = Date.now();
    this.ends = [...this.ends.filter((end) => now - end < SPAN), now];
    if (this.ends.length > MOST) {
      const offers = { Restart: "talaria.restart", "Show Log": "talaria.showLog" };
      void this.stopped("the server keeps exiting; the log may say why", offers);
      return;
    }
    const wait = SHORTEST * 2 ** (this.ends.length - 1);
    this.log.warn(`the server exited; restarting in ${wait / 1000} s`);
    this.status.set("loading", "the server exited and is restarting");
    this.again = setTimeout(() => void this.restart(this.ends), wait);
  }

  /** Forget the current server, if any; returns its client. */
  private forget(): LanguageClient | undefined {
    const client = this.client;
    this.client = undefined;
    this.live.clear();
    void vscode.commands.executeCommand("setContext", "talaria.running", false);
    return client;
  }

  /** There is no server and no automatic restart: say why and offer remedies. */
  private async stopped(why: string, offers: Record<string, string>): Promise<void> {
    this.log.warn(why);
    this.status.set("stopped", why);
    const texts = Object.keys(offers);
    const answer = await vscode.window.showWarningMessage(`Talaria: ${why}.`, ...texts);
    if (answer) {
      await vscode.commands.executeCommand(offers[answer] ?? "");
    }
  }

  /** The server toggled suggestions; remember what is off for the next server. */
  private async toggled(language: string): Promise<void> {
    if (!this.off.delete(language)) {
      this.off.add(language);
    }
    this.status.draw();
    await this.context.workspaceState.update(OFF, [...this.off]);
  }

  /** Open a sample function and have it written; without a server, show the menu. */
  private async sample(): Promise<void> {
    const stub = { language: "python", content: STUB };
    const document = await vscode.workspace.openTextDocument(stub);
    await vscode.window.showTextDocument(document, { selection: new vscode.Range(2, 4, 2, 4) });
    const next = this.client?.isRunning() ? "talaria.fillFunction" : "talaria.menu";
    await vscode.commands.executeCommand(next);
  }

  /** Hide the ghost text and, if it is ours, tell the server that it was dismissed. */
  private async dismiss(): Promise<void> {
    await vscode.commands.executeCommand("editor.action.inlineSuggest.hide");
    const uri = vscode.window.activeTextEditor?.document.uri.toString() ?? "";
    if (this.client?.isRunning() && this.offered.has(uri)) {
      await this.client.sendNotification("talaria/didDismiss", { uri });
    }
  }

  private async configure(event: vscode.ConfigurationChangeEvent): Promise<void> {
    if (
      OURS.some((name) => event.affectsConfiguration(name)) ||
      (!this.client && event.affectsConfiguration("python.defaultInterpreterPath"))
    ) {
      await this.restart();
    } else if (event.affectsConfiguration("talaria")) {
      const settings = { talaria: options() };
      await this.client?.sendNotification("workspace/didChangeConfiguration", { settings });
    }
  }
}

/** The settings that are server options, by their names in the server. */
function options(): Record<string, unknown> {
  const settings = vscode.workspace.getConfiguration();
  const names = Object.keys(contributes.configuration.properties).filter((n) => !OURS.includes(n));
  const given = names.map((name) => [name.replace("talaria.", ""), settings.get(name)] as const);
  return { ...Object.fromEntries<unknown>(given), status: true };
}

/** Arguments for a server command that was run without any: the active editor and selection. */
function place(command: string): unknown[] {
  const editor = vscode.window.activeTextEditor;
  const uri = editor?.document.uri.toString() ?? ""; // without one, the server explains the problem
  const { start, end } = editor?.selection ?? new vscode.Range(0, 0, 0, 0);
  const at = PLACED.includes(command) ? { uri, range: { start, end } } : uri;
  return GENERAL.includes(command) ? [] : [at];
}

/** Show a page of the server's beside the text; the file is on the server's machine. */
async function showPage(address: string): Promise<{ success: boolean }> {
  const html = await readFile(vscode.Uri.parse(address).fsPath, "utf8");
  const panel = vscode.window.createWebviewPanel(
    "talaria.trace",
    "Talaria: the last answer",
    { viewColumn: vscode.ViewColumn.Beside, preserveFocus: true },
    { enableScripts: true, localResourceRoots: [] },
  );
  panel.webview.html = html;
  return { success: true };
}
