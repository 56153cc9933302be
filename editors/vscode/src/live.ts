/** The denoising, live: what the model has so far, laid over the place where it will stand. */
import * as vscode from "vscode";

/** What `talaria/step` says. */
export interface Step {
  uri: string;
  version: number | null;
  position: { line: number; character: number };
  pieces: (string | null)[];
}

const MASK = "░";
const PACE = 60; // milliseconds for which a step is to be seen; the model may take far less
const BEHIND = 12; // steps at most that wait to be seen

/**
 * Two layers over the text: what is settled or still a mask, and in another colour what a step has
 * committed. A decoration has one line; that these have several is a matter of style sheets, which
 * the editor hands through.
 */
export class Live implements vscode.Disposable {
  private readonly settled = vscode.window.createTextEditorDecorationType({});
  private readonly fresh = vscode.window.createTextEditorDecorationType({});
  private readonly listening: vscode.Disposable;
  private waiting: [vscode.Uri, Step][] = [];
  private shown = ""; // the address of the document
  private before: (string | null)[] = [];
  private timer: NodeJS.Timeout | undefined;
  private whenSeen: (() => void)[] = [];

  constructor() {
    this.listening = vscode.workspace.onDidChangeTextDocument(({ document }) => {
      if (document.uri.toString() === this.shown) {
        this.clear();
      }
    });
  }

  /** Show a step, once those before it have been seen. */
  show(uri: vscode.Uri, step: Step): void {
    this.waiting = [...this.waiting, [uri, step] as [vscode.Uri, Step]].slice(-BEHIND);
    if (!this.timer) {
      this.next();
    }
  }

  /** Wait until all that came has been seen. */
  async seen(): Promise<void> {
    if (this.timer) {
      await new Promise<void>((resolve) => this.whenSeen.push(resolve));
    }
  }

  /** Take away what is shown and what waits. */
  clear(): void {
    clearTimeout(this.timer);
    this.timer = undefined;
    this.waiting = [];
    this.shown = "";
    this.before = [];
    this.whenSeen.splice(0).forEach((resolve) => resolve());
    for (const editor of vscode.window.visibleTextEditors) {
      editor.setDecorations(this.settled, []);
      editor.setDecorations(this.fresh, []);
    }
  }

  dispose(): void {
    this.clear();
    this.listening.dispose();
    this.settled.dispose();
    this.fresh.dispose();
  }

  private next(): void {
    const [uri, step] = this.waiting.shift() ?? [];
    this.timer = uri && setTimeout(() => this.next(), PACE);
    if (!uri || !step) {
      this.whenSeen.splice(0).forEach((resolve) => resolve());
      return;
    }
    const [settled, fresh] = layers(this.before, step.pieces);
    this.before = step.pieces;
    this.shown = uri.toString();
    const grey = new vscode.ThemeColor("editorGhostText.foreground");
    const green = new vscode.ThemeColor("charts.green");
    for (const editor of vscode.window.visibleTextEditors) {
      if (editor.document.uri.toString() === this.shown) {
        const at = new vscode.Position(step.position.line, step.position.character);
        const back = "background: var(--vscode-editor-background)";
        const line = editor.document.lineAt(at.line).text.slice(0, at.character);
        editor.setDecorations(this.settled, [overlay(editor, at, line, settled, grey, back)]);
        const top = overlay(editor, at, blank(line), fresh, green, "z-index: 11");
        editor.setDecorations(this.fresh, [top]);
      }
    }
  }
}

/** Blanks as wide as a text, over as many lines. */
function blank(text: string): string {
  return text.replaceAll(/[^\n\t]/g, " ");
}

/** The text of both layers; where one has a sign, the other has a blank. */
function layers(
  before: readonly (string | null)[],
  pieces: readonly (string | null)[],
): [settled: string, fresh: string] {
  let settled = "";
  let fresh = "";
  pieces.forEach((piece, place) => {
    const text = piece ?? MASK;
    const isNew = piece !== null && before[place] !== piece;
    settled += isNew ? blank(text) : text;
    fresh += isNew ? text : blank(text);
  });
  return [settled, fresh];
}

/** A text of several lines at a place behind `line`; it hides what it lies over. */
function overlay(
  editor: vscode.TextEditor,
  at: vscode.Position,
  line: string,
  text: string,
  color: vscode.ThemeColor,
  style: string,
): vscode.DecorationOptions {
  const { document, options } = editor;
  const tab = " ".repeat(Number(options.tabSize) || 4);
  // Behind a header or a comment, it stands on the next line.
  const below = text.startsWith("\n");
  const lines = (below ? text.slice(1) : line + text).replaceAll("\t", tab).split("\n");
  const first = at.line + Number(below);
  const hidden = lines.map((_, n) =>
    first + n < document.lineCount ? document.lineAt(first + n).text.length : 0,
  );
  lines[0] = lines[0]?.padEnd(Math.max(...hidden)) ?? "";
  const content = lines
    .join("\n")
    .replaceAll(/[\\"{};\n]/g, (sign) => `\\${sign.charCodeAt(0).toString(16)} `);
  const over = "position: absolute; z-index: 10; white-space: pre; pointer-events: none";
  const down = below ? "translate: 0 1lh" : "";
  const textDecoration = `none; content: "${content}"; ${over}; ${down}; ${style}`;
  const before = { contentText: " ", textDecoration, color };
  // It hangs at the line's beginning, which stays where it is when the text comes.
  return { range: new vscode.Range(at.line, 0, at.line, 0), renderOptions: { before } };
}
