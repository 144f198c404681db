// Where clusters lie: the densest place of each, and how far it reaches.

import { counted } from "./points.js";

const SAMPLE = 400; // members that tell how far a cluster reaches
const SHARE = 0.05; // of them that lie beyond either end
const FINEST = 24; // cells along a side of the grid in which the densest place is sought

/**
 * Return {index: {x, y, number, width, height}} of the clusters that have members. `parents` has
 * the index of each cluster's parent, or null; what lies in a child lies in its parent as well.
 */
export function middlesOf(points, parents) {
  const { rank, end } = families(points, parents);
  const { order, starts } = counted(points.length, rank.length + 1, (i) =>
    points.cluster[i] < 0 || Number.isNaN(points.x[i]) ? rank.length : rank[points.cluster[i]]);
  const found = new Map();
  rank.forEach((first, index) => {
    const members = order.subarray(starts[first], starts[end[index]]);
    if (members.length) found.set(index, middle(points, members));
  });
  return found;
}

/** Number clusters such that all below one follow it; `end` is the first number that does not. */
function families(points, parents) {
  let n = parents?.length ?? 0;
  for (let i = 0; i < points.length; i++) if (points.cluster[i] >= n) n = points.cluster[i] + 1;
  const children = Array.from({ length: n }, () => []);
  const roots = [];
  for (let index = 0; index < n; index++) (children[parents?.[index] ?? -1] ?? roots).push(index);
  const [rank, end] = [new Array(n).fill(0), new Array(n).fill(0)];
  let next = 0;
  const visit = (index) => {
    rank[index] = next++;
    children[index].forEach(visit);
    end[index] = next;
  };
  roots.forEach(visit);
  return { rank, end };
}

function middle({ x, y }, members) {
  const [left, right] = reach(x, members);
  const [bottom, top] = reach(y, members);
  const side = Math.max(1, Math.min(FINEST, Math.round(Math.sqrt(members.length) / 2)));
  const cell = (value, low, high) => Math.floor(((value - low) / (high - low || 1)) * side * 0.9999);
  const numbers = new Uint32Array(side * side);
  const places = new Int32Array(members.length);
  members.forEach((i, at) => {
    const [column, row] = [cell(x[i], left, right), cell(y[i], bottom, top)];
    places[at] = column < 0 || row < 0 || column >= side || row >= side ? -1 : row * side + column;
    if (places[at] >= 0) numbers[places[at]] += 1;
  });
  const densest = peak(numbers, side);
  let [sumX, sumY, n] = [0, 0, 0];
  members.forEach((i, at) => {
    if (places[at] < 0 || !isNear(places[at], densest, side)) return;
    sumX += x[i];
    sumY += y[i];
    n += 1;
  });
  return { x: sumX / n, y: sumY / n, number: members.length, width: right - left, height: top - bottom };
}

/** Return the values between which all but the outermost members lie. */
function reach(values, members) {
  const step = Math.max(1, Math.floor(members.length / SAMPLE));
  const some = [];
  for (let at = 0; at < members.length; at += step) some.push(values[members[at]]);
  some.sort((a, b) => a - b);
  const last = some.length - 1;
  return [some[Math.floor(SHARE * last)], some[Math.ceil((1 - SHARE) * last)]];
}

/** Return the cell which, with those around it, holds most. */
function peak(numbers, side) {
  let [best, most] = [0, -1];
  for (let at = 0; at < numbers.length; at++) {
    if (!numbers[at]) continue;
    let sum = numbers[at]; // twice: the middle counts more
    for (let row = -1; row <= 1; row++) {
      for (let column = -1; column <= 1; column++) {
        const place = at + row * side + column;
        if (isNear(place, at, side)) sum += numbers[place] ?? 0;
      }
    }
    if (sum > most) [best, most] = [at, sum];
  }
  return best;
}

const isNear = (one, other, side) =>
  Math.abs((one % side) - (other % side)) <= 1 && Math.abs(Math.floor(one / side) - Math.floor(other / side)) <= 1;
