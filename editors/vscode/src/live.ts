/** The live view: the canvas so far, drawn over the place where the text will be written. */
import { setTimeout as delay } from "node:timers/promises";
import * as vscode from "vscode";

/** The parameters of `talaria/step`. */
export interface Step {
  uri: string;
  version: number | null;
  position: { line: number; character: number };
  pieces: (string | null)[];
}

const MASK = "░";
const PACE = 60; // milliseconds to show each step; the model may be far faster
const BEHIND = 12; // longest queue of steps; older ones are dropped
const OVER = "position: absolute; z-index: 10; white-space: pre; pointer-events: none";
const BACK = "background: var(--vscode-editor-background)"; // hides the text below

/**
 * Two layers over the text: older tokens and masks, and in another colour the tokens committed in
 * the last step. Decorations have one line; style sheets, which the editor passes through, give
 * these several.
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

  /** Show a step after those before it. */
  show(step: Step): void {
    this.waiting = [...this.waiting, step].slice(-BEHIND);
    // An error in drawing must not block writing.
    this.playing ??= this.play()
      .catch(console.error)
      .finally(() => (this.playing = undefined));
  }

  /** Wait until all steps have been shown. */
  async seen(): Promise<void> {
    await this.playing;
  }

  /** Remove the shown step and the queued ones. */
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
        // After a change the position is no longer valid.
        if (uri.toString() === step.uri && version === step.version) {
          editor.setDecorations(this.layers, layers(editor, step, before));
        }
      }
      await delay(PACE);
    }
  }
}

/** Both layers of a step; where one has a character, the other has a blank. */
function layers(
  { document, options }: vscode.TextEditor,
  { position, pieces }: Step,
  before: readonly (string | null)[],
): vscode.DecorationOptions[] {
  // After a header or comment, the text starts on the next line.
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
  // Anchored at the start of the line, which does not move when the text is written.
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
      .replaceAll(/[\\"{};\n]/g, (character) => `\\${character.charCodeAt(0).toString(16)} `);
    const down = below ? "translate: 0 1lh" : "";
    const textDecoration = `none; content: "${content}"; ${OVER}; ${down}; ${style}`;
    const shown = { contentText: " ", textDecoration, color: new vscode.ThemeColor(color) };
    return { range, renderOptions: { before: shown } };
  });
}

/** A text with all characters replaced by blanks. */
function blank(text: string): string {
  return text.replaceAll(/[^\n\t]/g, " ");
}
