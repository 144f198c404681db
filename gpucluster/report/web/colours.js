// A colour for each cluster, however many there are: hues a golden angle apart, in three
// lightnesses that all stand out from the background. Neighbours differ in both, so that they are
// told apart with any eyes; labels and isolation tell the rest.

const GOLDEN = 137.50776405;
const LIGHTNESS = { light: [0.5, 0.62, 0.4], dark: [0.66, 0.78, 0.88] };
const CHROMA = 0.15;
// Of the similarities: one way through lightness, which any eyes can follow, and two hues.
const RAMP = { light: [[0.83, 95], [0.34, 275]], dark: [[0.42, 275], [0.93, 95]] };
export const RAMP_STEPS = 64;
export const GROUND = { light: [255, 255, 255], dark: [20, 23, 27] };
export const FADED = { light: [228, 230, 233], dark: [40, 44, 50] };
export const NOISE = { light: [150, 154, 160], dark: [98, 104, 112] };
const known = { light: [], dark: [] }; // colours that were made

/** Return the colour of a cluster as [red, green, blue], 0 to 255. */
export function colourOf(index, theme) {
  if (index < 0) return NOISE[theme];
  return (known[theme][index] ??= made(index, LIGHTNESS[theme]));
}

function made(index, levels) {
  const hue = ((250 + index * GOLDEN) % 360) * (Math.PI / 180);
  return strongest(levels[index % levels.length], hue);
}

/** Return the colours from the least to the most similar. */
export function ramp(theme) {
  const [[from, first], [to, last]] = RAMP[theme];
  return Array.from({ length: RAMP_STEPS }, (_, i) => {
    const share = i / (RAMP_STEPS - 1);
    return strongest(from + (to - from) * share, (first + (last - first) * share) * (Math.PI / 180));
  });
}

/** Return the most colourful colour, up to our chroma, that a screen can show. */
function strongest(lightness, hue) {
  for (let chroma = CHROMA; ; chroma -= 0.01) {
    const colour = fromOklch(lightness, Math.max(0, chroma), hue);
    if (chroma <= 0 || colour.every((part) => part >= 0 && part <= 255)) return colour.map(clipped);
  }
}

const clipped = (part) => Math.round(Math.min(255, Math.max(0, part)));

/** OKLCH to sRGB, by Ottosson's matrices. */
function fromOklch(lightness, chroma, hue) {
  const [a, b] = [chroma * Math.cos(hue), chroma * Math.sin(hue)];
  const l = (lightness + 0.3963377774 * a + 0.2158037573 * b) ** 3;
  const m = (lightness - 0.1055613458 * a - 0.0638541728 * b) ** 3;
  const s = (lightness - 0.0894841775 * a - 1.291485548 * b) ** 3;
  return [
    4.0767416621 * l - 3.3077115913 * m + 0.2309699292 * s,
    -1.2684380046 * l + 2.6097574011 * m - 0.3413193965 * s,
    -0.0041960863 * l - 0.7034186147 * m + 1.707614701 * s,
  ].map((part) => 255 * (part <= 0.0031308 ? 12.92 * part : 1.055 * part ** (1 / 2.4) - 0.055));
}

export const css = ([red, green, blue]) => `rgb(${red} ${green} ${blue})`;

const dark = matchMedia("screen and (prefers-color-scheme: dark)");
let isPaper = false; // before it is printed a page is on the screen still

/** Return which theme is shown; paper is light. */
export const theme = () => (dark.matches && !isPaper ? "dark" : "light");

/** Say whether what is drawn from now on is for paper; whoever minds the theme draws anew. */
export function forPaper(value) {
  isPaper = value;
  dark.dispatchEvent(new Event("change"));
}

/** Act whenever another theme is shown. */
export function whenThemeChanges(act, signal) {
  dark.addEventListener("change", act, { signal });
}
