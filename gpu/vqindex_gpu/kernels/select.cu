// uses: common.cuh
// Selects the k largest of many rank scores for each query. Ties go to the lower place, and -inf is never selected. One
// block handles one query.
//
// A radix select finds the threshold: the k-th largest rank score, and how many of the scores equal to it are selected.
// A second pass writes the places above the threshold, and the first of the places equal to it, in ascending order. The
// result does not depend on the order of threads.
//
// VQ_COLLECT=0 writes places.
// VQ_COLLECT=1 reads the rank scores of the rows of tiles (score.cu), and writes rank score, score and row.

#define VQ_DIGITS 256

// Returns an integer that orders as the rank score does; 0 for -inf and NaN. -0 and 0 are equal.
__device__ __forceinline__ u32 vq_orderable(float rank_score) {
  if (!(rank_score > VQ_MINUS_INF)) return 0;
  u32 bits = __float_as_uint(__fadd_rn(rank_score, 0.0f));
  return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

VQ_KERNEL(VQ_THREADS)
vq_select(const float* rank_scores, i64 count, int k,
#if VQ_COLLECT
          const float* scores, const int* tiles, float* best_rank_scores, float* best_scores, i64* best_rows
#else
          int* places
#endif
) {
  __shared__ int histogram[VQ_DIGITS];
  __shared__ u32 shared_prefix;
  __shared__ int shared_remaining, warp_counts[2][VQ_THREADS / 32];
  const u64 query = blockIdx.x;
  rank_scores += query * count;
#if VQ_COLLECT
  best_rows += query * k;
#else
  places += query * k;
#endif
  // The radix select goes digit by digit. The threshold is among the scores that begin with `prefix`, and `remaining`
  // of these scores are selected.
  u32 prefix = 0;
  int remaining = k;
  for (int shift = 24; shift >= 0; shift -= 8) {
    for (int i = threadIdx.x; i < VQ_DIGITS; i += blockDim.x) histogram[i] = 0;
    __syncthreads();
    for (i64 i = threadIdx.x; i < count; i += blockDim.x) {
      u32 v = vq_orderable(rank_scores[i]);
      if (v && (shift == 24 || v >> (shift + 8) == prefix)) atomicAdd(&histogram[v >> shift & 255], 1);
    }
    __syncthreads();
    if (threadIdx.x == 0) {
      int digit = VQ_DIGITS - 1, below = remaining;
      while (digit > 0 && histogram[digit] < below) below -= histogram[digit--];
      shared_prefix = prefix << 8 | (u32)digit;
      shared_remaining = below;
    }
    __syncthreads();
    prefix = shared_prefix;
    remaining = shared_remaining;
    __syncthreads();
  }
  // `prefix` is the threshold now. With fewer than k scores it is 0, which no score equals.
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  int written = 0, ties = 0;
  for (i64 start = 0; start < count; start += blockDim.x) {
    const i64 place = start + threadIdx.x;
    const u32 v = place < count ? vq_orderable(rank_scores[place]) : 0;
    const u32 tie_mask = __ballot_sync(VQ_FULL, v && v == prefix);
    if (lane == 0) warp_counts[0][warp] = __popc(tie_mask);
    __syncthreads();
    int ties_before = ties + __popc(tie_mask & ((1u << lane) - 1));
    for (int w = 0; w < VQ_THREADS / 32; ++w) {
      if (w < warp) ties_before += warp_counts[0][w];
      ties += warp_counts[0][w];
    }
    const bool is_selected = v > prefix || (v && v == prefix && ties_before < remaining);
    const u32 selected_mask = __ballot_sync(VQ_FULL, is_selected);
    if (lane == 0) warp_counts[1][warp] = __popc(selected_mask);
    __syncthreads();
    int at = written + __popc(selected_mask & ((1u << lane) - 1));
    for (int w = 0; w < VQ_THREADS / 32; ++w) {
      if (w < warp) at += warp_counts[1][w];
      written += warp_counts[1][w];
    }
    if (is_selected) {
#if VQ_COLLECT
      const u64 from = query * count + place;
      best_rows[at] = (i64)tiles[from / VQ_TILE_ROWS] * VQ_TILE_ROWS + place % VQ_TILE_ROWS;
      best_rank_scores[query * k + at] = rank_scores[place];
      best_scores[query * k + at] = scores[from];
#else
      places[at] = (int)place;
#endif
    }
    __syncthreads();
  }
  for (int i = written + threadIdx.x; i < k; i += blockDim.x) {
#if VQ_COLLECT
    best_rows[i] = -1;
    best_rank_scores[query * k + i] = VQ_MINUS_INF;
    best_scores[query * k + i] = VQ_MINUS_INF;
#else
    places[i] = -1;
#endif
  }
}
