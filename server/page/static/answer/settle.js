/**
 * Text of tokens that were decoded one by one, made to agree with the text of all of them.
 *
 * A token alone may be a part of a character, which shows as U+FFFD, or lack the space before it. Here each gets its
 * share of `text`: where characters cannot be told apart, the first token has them all and the others are undefined.
 */

const LOOK_AHEAD = 64;

/**
 * @param {(string | null)[]} tokens null and "" stay what they are
 * @param {string} text
 * @returns {(string | null | undefined)[]} one entry a token; the strings joined are `text`
 */
export function settle(tokens, text) {
  const pieces = [];
  let place = 0;
  let open = -1; // The first of the tokens whose text is not known yet.
  for (const token of tokens) {
    if (token === null || token === "" || place >= text.length) {
      pieces.push(token === null ? null : "");
      continue;
    }
    const found = token.includes("\uFFFD") ? -1 : text.indexOf(token, place);
    if (found < 0 || found > place + LOOK_AHEAD) {
      open = open < 0 ? pieces.length : open;
      pieces.push(undefined);
      continue;
    }
    const between = text.slice(place, found);
    if (open < 0) {
      pieces.push(between + token);
    } else {
      pieces[open] = between;
      pieces.push(token);
    }
    open = -1;
    place = found + token.length;
  }
  if (place < text.length && pieces.length > 0) {
    const last = open < 0 ? pieces.length - 1 : open;
    pieces[last] = (pieces[last] ?? "") + text.slice(place);
  }
  return pieces;
}
