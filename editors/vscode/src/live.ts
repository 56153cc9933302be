/** The denoising, live: what the model has so far, laid over the place where it will stand. */
import { setTimeout as delay } from "node:timers/promises";
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
const OVER = "position: absolute; z-index: 10; white-space: pre; pointer-events: none";
const BACK = "background: var(--vscode-editor-background)"; // hides what lies below

/**
 * Two layers over the text: what is settled or still a mask, and in another colour what a step has
 * committed. A decoration has one line; that these have several is a matter of style sheets, which
 * the editor hands through.
 */
export class Live implements vscode.Disposable {
  private readonly layers = vscode.window.createTextEditorDecorationType({});
  private readonly listening = vscode.workspace.onDidChangeTextDocument(({ document }) => {
    if (document.uri.toString() === this.shown?.uri) {
      this.clear();
    }
  });
  private waiting: Step[] = [];
  private shown: Step | undefined;
  private playing: Promise<void> | undefined;

  /** Show a step, once those before it have been seen. */
  show(step: Step): void {
    this.waiting = [...this.waiting, step].slice(-BEHIND);
    // Whatever goes wrong in drawing, what is written does not wait for it.
    this.playing ??= this.play()
      .catch(console.error)
      .finally(() => (this.playing = undefined));
  }

  /** Wait until all that came has been seen. */
  async seen(): Promise<void> {
    await this.playing;
  }

  /** Take away what is shown and what waits. */
  clear(): void {
    this.waiting = [];
    this.shown = undefined;
    for (const editor of vscode.window.visibleTextEditors) {
      editor.setDecorations(this.layers, []);
    }
  }

  dispose(): void {
    this.waiting = [];
    this.listening.dispose();
    this.layers.dispose();
  }

  private async play(): Promise<void> {
    for (let step; (step = this.waiting.shift());) {
      const before = this.shown?.pieces ?? [];
      this.shown = step;
      for (const editor of vscode.window.visibleTextEditors) {
        const { uri, version } = editor.document;
        // In a text that was changed meanwhile, the place is another.
        if (uri.toString() === step.uri && version === step.version) {
          editor.setDecorations(this.layers, layers(editor, step, before));
        }
      }
      await delay(PACE);
    }
  }
}

/** Both layers of a step; where one has a sign, the other has a blank. */
function layers(
  { document, options }: vscode.TextEditor,
  { position, pieces }: Step,
  before: readonly (string | null)[],
): vscode.DecorationOptions[] {
  // Behind a header or a comment, it stands on the next line.
  const below = pieces[0]?.startsWith("\n") ?? false;
  const start = below ? "" : document.lineAt(position.line).text.slice(0, position.character);
  let [settled, fresh] = [start, blank(start)];
  pieces.forEach((piece, place) => {
    const text = piece ?? MASK;
    const isNew = piece !== null && before[place] !== piece;
    settled += isNew ? blank(text) : text;
    fresh += isNew ? text : blank(text);
  });
  const first = position.line + Number(below);
  const tab = " ".repeat(Number(options.tabSize) || 4);
  // It hangs at the line's beginning, which stays where it is when the text comes.
  const range = new vscode.Range(position.line, 0, position.line, 0);
  return [
    { text: settled, color: "editorGhostText.foreground", style: BACK },
    { text: fresh, color: "charts.green", style: "z-index: 11" },
  ].map(({ text, color, style }) => {
    const lines = text.slice(Number(below)).replaceAll("\t", tab).split("\n");
    const hidden = lines.map((_, n) =>
      first + n < document.lineCount ? document.lineAt(first + n).text.length : 0,
    );
    lines[0] = lines[0]?.padEnd(Math.max(...hidden)) ?? "";
    const content = lines
      .join("\n")
      .replaceAll(/[\\"{};\n]/g, (sign) => `\\${sign.charCodeAt(0).toString(16)} `);
    const down = below ? "translate: 0 1lh" : "";
    const textDecoration = `none; content: "${content}"; ${OVER}; ${down}; ${style}`;
    const shown = { contentText: " ", textDecoration, color: new vscode.ThemeColor(color) };
    return { range, renderOptions: { before: shown } };
  });
}

/** Blanks as wide as a text, over as many lines. */
function blank(text: string): string {
  return text.replaceAll(/[^\n\t]/g, " ");
}
