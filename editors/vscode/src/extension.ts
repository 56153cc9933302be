/** Talaria in VS Code: starts the language server and gives it a face. What is clever is there. */
import { readFile } from "node:fs/promises";
import * as vscode from "vscode";
import {
  CloseAction,
  ErrorAction,
  LanguageClient,
  State as Life,
} from "vscode-languageclient/node";
import { find, installServer, offerToInstall } from "./find";
import { Live, type Step } from "./live";
import { serverOptions } from "./options";
import { Patience } from "./patience";
import { Status, type State } from "./status";

const OFF = "off"; // the key under which a workspace keeps what was switched off

const PLACED = ["talaria.fillFunction", "talaria.fillHere", "talaria.rewrite"]; // want a place

let talaria: Talaria | undefined;

export function activate(context: vscode.ExtensionContext): void {
  talaria = new Talaria(context);
  void talaria.restart();
}

export async function deactivate(): Promise<void> {
  await talaria?.stop();
}

/** The library's client, whose own errors are lines in the log: what matters, Talaria says. */
class Client extends LanguageClient {
  override error(message: string, data?: unknown): void {
    super.error(message, data, false);
  }
}

/** One server at a time, and everything that is shown of it. */
class Talaria {
  private readonly log = vscode.window.createOutputChannel("Talaria", { log: true });
  private readonly live = new Live();
  private readonly off: Set<string>;
  private readonly status: Status;
  private client: LanguageClient | undefined;
  private patience = new Patience();
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
      on("talaria.menu", () => this.menu()),
      on("talaria.restart", () => this.restart()),
      on("talaria.install", () => installServer(context.globalStorageUri)),
      on("talaria.showLog", () => this.log.show()),
      on("talaria.openSettings", () =>
        vscode.commands.executeCommand("workbench.action.openSettings", "@ext:talaria.talaria"),
      ),
      on("talaria.toggleLanguage", () =>
        vscode.commands.executeCommand(
          "talaria.toggle",
          vscode.window.activeTextEditor?.document.languageId,
        ),
      ),
      on("talaria.dismiss", () => this.dismiss()),
      vscode.window.onDidChangeActiveTextEditor(() => this.status.draw()),
      vscode.workspace.onDidGrantWorkspaceTrust(() => this.restart()),
      vscode.workspace.onDidChangeConfiguration((event) => this.configure(event)),
    );
  }

  /** Start the server, or start it anew; one after the other, however often it is asked for. */
  async restart(): Promise<void> {
    this.patience = new Patience();
    await this.startAnew();
  }

  async stop(): Promise<void> {
    clearTimeout(this.again);
    const client = this.client;
    this.client = undefined;
    this.live.clear();
    await vscode.commands.executeCommand("setContext", "talaria.running", false);
    await client?.dispose().catch((error: unknown) => this.log.info(String(error)));
  }

  private async startAnew(): Promise<void> {
    this.starting = this.starting.then(() => this.stop()).then(() => this.start());
    await this.starting;
  }

  private async start(): Promise<void> {
    this.status.set("loading");
    const storage = this.context.globalStorageUri;
    const found = await find(storage);
    if ("missing" in found) {
      this.log.warn(found.missing);
      this.status.set("missing", found.missing);
      void offerToInstall(storage, found.missing);
      return;
    }
    this.log.info(`the server is ${found.program}`);
    const client = (this.client = this.made(found.program));
    client.onDidChangeState(({ oldState, newState }) => {
      if (newState === Life.Running) {
        this.began(client);
      } else if (oldState === Life.Running) {
        this.ended(client);
      }
    });
    client.onNotification("talaria/status", (now: { state: State; message: string }) =>
      this.status.set(now.state, now.message),
    );
    client.onNotification("talaria/step", (step: Step) =>
      this.live.show(client.protocol2CodeConverter.asUri(step.uri), step),
    );
    try {
      await client.start();
    } catch (error) {
      this.log.error(String(error));
      this.ended(client);
    }
  }

  private made(program: string): LanguageClient {
    return new Client(
      "talaria",
      "Talaria",
      { command: program, args: ["lsp"] },
      {
        documentSelector: [{ scheme: "file" }, { scheme: "untitled" }],
        outputChannel: this.log,
        initializationOptions: () => serverOptions(this.context.extension),
        initializationFailedHandler: () => false,
        errorHandler: {
          error: () => ({ action: ErrorAction.Continue }), // if it is serious, it closes
          closed: () => ({ action: CloseAction.DoNotRestart, handled: true }),
        },
        middleware: {
          executeCommand: (command, given, next) => this.execute(command, given, next),
          workspace: {
            handleApplyEdit: async (params, next) => {
              await this.live.seen();
              return next(params, new vscode.CancellationTokenSource().token);
            },
          },
          window: {
            showDocument: (params, token, next) =>
              params.uri.endsWith(".html") ? this.showPage(params.uri) : next(params, token),
          },
        },
      },
    );
  }

  private began(client: LanguageClient): void {
    // A new server knows nothing of what was switched off.
    for (const name of this.off) {
      const what = { command: "talaria.toggle", arguments: [name] };
      void client.sendRequest("workspace/executeCommand", what);
    }
    void vscode.commands.executeCommand("setContext", "talaria.running", true);
  }

  /** A server is gone. If nobody wanted that, there will be another, later each time. */
  private ended(client: LanguageClient): void {
    if (client !== this.client) {
      return;
    }
    this.client = undefined;
    this.live.clear();
    void vscode.commands.executeCommand("setContext", "talaria.running", false);
    const wait = this.patience.ended(Date.now());
    if (wait === undefined) {
      this.giveUp("the server ended again and again");
      return;
    }
    this.log.warn(`the server ended; it is started again in ${wait / 1000} s`);
    this.status.set("loading", "the server ended and is started again");
    this.again = setTimeout(() => void this.startAnew(), wait);
  }

  private giveUp(why: string): void {
    const [restart, log] = ["Restart", "Show Log"];
    this.log.error(why);
    this.status.set("stopped", why);
    void vscode.window
      .showErrorMessage(`Talaria: ${why}. The log may say why.`, restart, log)
      .then((answer) => {
        if (answer === restart) {
          void this.restart();
        } else if (answer === log) {
          this.log.show();
        }
      });
  }

  /** A command of the server's, from the palette, a key or an item. */
  private async execute(
    command: string,
    given: unknown[],
    next: (command: string, given: unknown[]) => vscode.ProviderResult<unknown>,
  ): Promise<unknown> {
    try {
      const answer: unknown = await next(command, given.length ? given : this.given(command));
      if (command === "talaria.toggle") {
        await this.toggled(typeof given[0] === "string" ? given[0] : "", answer === true);
      }
      return answer;
    } finally {
      if (PLACED.includes(command)) {
        this.live.clear();
      }
    }
  }

  /** What a command is about that came without arguments: the editor that is looked at. */
  private given(command: string): unknown[] {
    const editor = vscode.window.activeTextEditor;
    const converter = this.client?.code2ProtocolConverter;
    if (!editor || !converter || command === "talaria.toggle" || command === "talaria.status") {
      return [];
    }
    const uri = converter.asUri(editor.document.uri);
    return [PLACED.includes(command) ? { uri, range: converter.asRange(editor.selection) } : uri];
  }

  private async toggled(language: string, isOn: boolean): Promise<void> {
    if (isOn) {
      this.off.delete(language);
    } else {
      this.off.add(language);
    }
    this.status.draw();
    await this.context.workspaceState.update(OFF, [...this.off]);
  }

  /** Hide the grey text, and tell the server that it is not wanted. */
  private async dismiss(): Promise<void> {
    await vscode.commands.executeCommand("editor.action.inlineSuggest.hide");
    const document = vscode.window.activeTextEditor?.document;
    if (document && this.client?.isRunning()) {
      const uri = this.client.code2ProtocolConverter.asUri(document.uri);
      await this.client.sendNotification("talaria/didDismiss", { uri });
    }
  }

  private async configure(event: vscode.ConfigurationChangeEvent): Promise<void> {
    if (
      event.affectsConfiguration("talaria.server_path") ||
      (!this.client && event.affectsConfiguration("python.defaultInterpreterPath"))
    ) {
      await this.restart();
    } else if (event.affectsConfiguration("talaria") && this.client?.isRunning()) {
      const settings = { talaria: serverOptions(this.context.extension) };
      await this.client.sendNotification("workspace/didChangeConfiguration", { settings });
    }
  }

  private async menu(): Promise<void> {
    const running = this.client?.isRunning() ?? false;
    const status = running
      ? await this.client
          ?.sendRequest<{ engine: { state: string; requests?: number } }>(
            "workspace/executeCommand",
            { command: "talaria.status" },
          )
          .catch(() => null)
      : null;
    await this.status.menu(running, status?.engine ?? null);
  }

  /** A page of the server's, beside the text: it is on the machine on which the server runs. */
  private async showPage(address: string): Promise<{ success: boolean }> {
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
}
