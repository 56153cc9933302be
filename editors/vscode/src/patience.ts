/** When a server that ended is started again. */

const MOST = 5; // ends within the span, after which it stays ended
const SPAN = 180_000; // milliseconds
const SHORTEST = 500; // milliseconds before the first start; twice as long before each further one

/** Counts how often the server ended by itself. */
export class Patience {
  private ends: number[] = [];

  /** It ended: milliseconds until it shall be started again; nothing where that is no use. */
  ended(now: number): number | undefined {
    this.ends = [...this.ends.filter((end) => now - end < SPAN), now];
    return this.ends.length > MOST ? undefined : SHORTEST * 2 ** (this.ends.length - 1);
  }
}
