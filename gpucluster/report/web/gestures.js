// How a picture is moved: by mouse, fingers and keys.

const STEP = 60;
const FEW = 4; // pixels that a click may move
export const ZOOM = 1.25;

/**
 * Listen on an element. `act` has zoom(factor, x, y), step(factor), move(right, down), reset(),
 * close(), hover(event), leave() and click(event); places are in pixels of the page, from the
 * element's corner.
 */
export function listen(element, act, signal) {
  const on = (name, what, options) => element.addEventListener(name, what, { signal, ...options });
  const place = (event) => {
    const box = element.getBoundingClientRect();
    return [event.clientX - box.left - element.clientLeft, event.clientY - box.top - element.clientTop];
  };
  const fingers = new Map();
  let [start, isDrag] = [null, false];
  on("wheel", (event) => {
    event.preventDefault();
    const pixels = event.deltaMode === WheelEvent.DOM_DELTA_LINE ? 33 * event.deltaY : event.deltaY;
    act.zoom(ZOOM ** (-pixels / 100), ...place(event));
  }, { passive: false });
  on("pointerdown", (event) => {
    if (event.button > 0) return;
    fingers.set(event.pointerId, place(event));
    if (fingers.size === 1) [start, isDrag] = [place(event), false];
  });
  on("pointermove", (event) => {
    const before = fingers.get(event.pointerId);
    if (!before) return act.hover(event);
    const now = place(event);
    if (!isDrag) {
      if (fingers.size === 1 && apart(now, start) < FEW) return;
      isDrag = true;
      act.leave();
      for (const id of fingers.keys()) element.setPointerCapture(id);
    }
    fingers.set(event.pointerId, now);
    const other = [...fingers].find(([id]) => id !== event.pointerId)?.[1];
    if (other) {
      act.zoom(apart(now, other) / (apart(before, other) || 1), ...between(before, other));
      act.move(...between(now, before, -1));
    } else act.move(now[0] - before[0], now[1] - before[1]);
  });
  const lift = (event) => {
    fingers.delete(event.pointerId);
    if (!fingers.size) setTimeout(() => { isDrag = false; }); // after the click that follows
  };
  on("pointerup", lift);
  on("pointercancel", lift);
  on("pointerleave", (event) => {
    act.leave();
    if (!isDrag) fingers.delete(event.pointerId);
  });
  on("click", (event) => {
    if (isDrag) event.stopPropagation(); // that was no click
    else if (!event.target.closest("button")) act.click(event);
  }, { capture: true });
  const keys = {
    ArrowLeft: () => act.move(STEP, 0),
    ArrowRight: () => act.move(-STEP, 0),
    ArrowUp: () => act.move(0, STEP),
    ArrowDown: () => act.move(0, -STEP),
    "+": () => act.step(ZOOM),
    "=": () => act.step(ZOOM),
    "-": () => act.step(1 / ZOOM),
    0: () => act.reset(),
    Escape: () => act.close(),
  };
  on("keydown", (event) => {
    if (!Object.hasOwn(keys, event.key) || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    keys[event.key]();
  });
}

const apart = ([x, y], [left, top]) => Math.hypot(x - left, y - top);
const between = ([x, y], [left, top], sign = 1) => [(x + sign * left) / 2, (y + sign * top) / 2];
