// Keep of each row those that may be nearest, from a tile of products just written.
//
// A score x.y - |y|^2 / 2 is the larger, the nearer the other row. It is known up to an error; those
// with the largest upper bounds are kept, so that all others are below the last of these for certain.
// A warp keeps those of its row in registers, in order, slot after slot over the lanes. Few bounds are
// above the last that is kept, and only those are put in their place.
//
// shapes   dots (n_rows, n_cols) float32: products of the copies of rows first_row ... first_row +
//          n_rows - 1 with those of others first_col ... first_col + n_cols - 1
//          columns (5, n_others) float32: what is known of the others (bounds.cuh)
//          of all rows, of which those of the tile are looked at:
//          scales, norms, residuals (n_total,) float32: as scan_cast gives them
//          skip (n_total,) int32: one that is no neighbor of this row, or less than 0
//          in and out: bounds (n_total, n_kept) float32, falling; found (n_total, n_kept) int32
//          n_kept at most 128
// start    bounds are -FLOAT_MAX and found 2^31 - 1 before the first tile
// ties     the lower one first, if tiles come in order
// unknown  a score that is no number has the bound FLOAT_MAX, and is kept
// tails    any n_rows, n_cols >= 1
// bytes    reads 4 * n_rows * n_cols (from L2 where the tile is small enough) and 16 * n_rows, reads
//          and writes 8 * n_rows * n_kept
// launch   grid-stride over rows, a warp for each; blocks of whole warps
#include "bounds.cuh"
#include "reduce.cuh"

const int SLOTS = 4;  // of a lane: slot s of lane l is place 32 * s + l

extern "C" __global__ void fold_neighbors_f32(
    const float* __restrict__ dots, long long first_row, long long n_rows, int n_cols,
    int first_col, int n_others, const float* __restrict__ columns,
    const float* __restrict__ scales, const float* __restrict__ norms,
    const float* __restrict__ residuals, const int* __restrict__ skip, int n_kept,
    float* __restrict__ bounds, int* __restrict__ found) {
  const Columns known = columns_of(columns, n_others);
  const int lane = threadIdx.x % LANES, n_warps = blockDim.x / LANES;
  const long long first = blockIdx.x * (long long)n_warps + threadIdx.x / LANES;
  const int last_slot = (n_kept - 1) / LANES, last_lane = (n_kept - 1) % LANES;
  for (long long at = first; at < n_rows; at += gridDim.x * (long long)n_warps) {
    const long long row = first_row + at;
    const float scale = scales[row], norm = norms[row], residual = residuals[row];
    const int skipped = skip[row];
    float kept[SLOTS], last = -FLOAT_MAX;
    int index[SLOTS];
    for (int s = 0; s < SLOTS; ++s) {
      const int place = s * LANES + lane;
      const bool held = place < n_kept;
      kept[s] = held ? bounds[row * n_kept + place] : -FLOAT_MAX;
      index[s] = held ? found[row * n_kept + place] : NO_INDEX;
      const float here = __shfl_sync(ALL_LANES, kept[s], last_lane);
      if (s == last_slot) last = here;
    }
    for (int begin = 0; begin < n_cols; begin += LANES) {
      const int col = begin + lane, other = first_col + col;
      float bound = -FLOAT_MAX;
      if (col < n_cols && other != skipped) {
        bound = bounds_of(dots[at * n_cols + col], scale, norm, residual, known, other).upper;
      }
      unsigned better = __ballot_sync(ALL_LANES, bound > last);
      while (better) {
        const int source = __ffs(better) - 1;
        better &= better - 1;
        const float value = __shfl_sync(ALL_LANES, bound, source);
        if (value <= last) continue;  // one of this chunk was put before
        const int number = first_col + begin + source;
        int place = 0;
        for (int s = 0; s < SLOTS; ++s) {
          place += __popc(__ballot_sync(ALL_LANES, kept[s] >= value));
        }
        for (int s = SLOTS - 1; s >= 0; --s) {
          const int here = s * LANES + lane;
          float before = __shfl_up_sync(ALL_LANES, kept[s], 1);
          int index_before = __shfl_up_sync(ALL_LANES, index[s], 1);
          const float end = s > 0 ? __shfl_sync(ALL_LANES, kept[s > 0 ? s - 1 : 0], LANES - 1) : 0;
          const int index_end = s > 0 ? __shfl_sync(ALL_LANES, index[s > 0 ? s - 1 : 0], LANES - 1) : 0;
          if (lane == 0) {
            before = end;
            index_before = index_end;
          }
          if (here > place) {
            kept[s] = before;
            index[s] = index_before;
          }
          if (here == place) {
            kept[s] = value;
            index[s] = number;
          }
          const float at_last = __shfl_sync(ALL_LANES, kept[s], last_lane);
          if (s == last_slot) last = at_last;
        }
      }
    }
    for (int s = 0; s < SLOTS; ++s) {
      const int place = s * LANES + lane;
      if (place < n_kept) {
        bounds[row * n_kept + place] = kept[s];
        found[row * n_kept + place] = index[s];
      }
    }
  }
}
