// uses: common.cuh
// The k largest of many keys for each query, a query a block; ties go to the lower place. Keys of -inf are no keys.
//
// A radix select finds the bar: the k-th largest key and how many of its equals belong. A second walk writes the places
// above the bar, and the first of the equals, in ascending order. Nothing depends on the order of threads.
//
// VQ_COLLECT=0 writes places. VQ_COLLECT=1 reads keys of rows of tiles (score.cu) and writes key, score and row.

#define VQ_DIGITS 256

// Order-preserving integer of a key; 0 where there is none. -0 and 0 are equal.
__device__ __forceinline__ u32 vq_orderable(float key) {
  if (!(key > VQ_MINUS_INF)) return 0;
  u32 bits = __float_as_uint(__fadd_rn(key, 0.0f));
  return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

VQ_KERNEL(VQ_THREADS)
vq_select(const float* keys, i64 count, int k,
#if VQ_COLLECT
          const float* scores, const int* tiles, float* out_keys, float* out_scores, i64* out
#else
          int* out
#endif
) {
  __shared__ int histogram[VQ_DIGITS];
  __shared__ u32 bar;
  __shared__ int equals, warp_counts[2][VQ_THREADS / 32];
  const u64 query = blockIdx.x;
  keys += query * count;
  out += query * k;
  u32 prefix = 0;
  int wanted = k;
  // Digit by digit: keys that begin with `prefix` hold the bar, and `wanted` of them are to be taken.
  for (int shift = 24; shift >= 0; shift -= 8) {
    for (int i = threadIdx.x; i < VQ_DIGITS; i += blockDim.x) histogram[i] = 0;
    __syncthreads();
    for (i64 i = threadIdx.x; i < count; i += blockDim.x) {
      u32 v = vq_orderable(keys[i]);
      if (v && (shift == 24 || v >> (shift + 8) == prefix)) atomicAdd(&histogram[v >> shift & 255], 1);
    }
    __syncthreads();
    if (threadIdx.x == 0) {
      int digit = VQ_DIGITS - 1, left = wanted;
      while (digit > 0 && histogram[digit] < left) left -= histogram[digit--];
      bar = prefix << 8 | (u32)digit;
      equals = left;
    }
    __syncthreads();
    prefix = bar;
    wanted = equals;
    __syncthreads();
  }
  // Fewer than k keys leave the bar at 0, which none of them equals.
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  int written = 0, ties = 0;
  for (i64 start = 0; start < count; start += blockDim.x) {
    const i64 place = start + threadIdx.x;
    const u32 v = place < count ? vq_orderable(keys[place]) : 0;
    const u32 tied = __ballot_sync(VQ_FULL, v && v == prefix);
    if (lane == 0) warp_counts[0][warp] = __popc(tied);
    __syncthreads();
    int ties_before = ties + __popc(tied & ((1u << lane) - 1));
    for (int w = 0; w < VQ_THREADS / 32; ++w) {
      if (w < warp) ties_before += warp_counts[0][w];
      ties += warp_counts[0][w];
    }
    const bool taken = v > prefix || (v && v == prefix && ties_before < wanted);
    const u32 chosen = __ballot_sync(VQ_FULL, taken);
    if (lane == 0) warp_counts[1][warp] = __popc(chosen);
    __syncthreads();
    int at = written + __popc(chosen & ((1u << lane) - 1));
    for (int w = 0; w < VQ_THREADS / 32; ++w) {
      if (w < warp) at += warp_counts[1][w];
      written += warp_counts[1][w];
    }
    if (taken) {
#if VQ_COLLECT
      const u64 from = query * count + place;
      out[at] = (i64)tiles[from / VQ_TILE_ROWS] * VQ_TILE_ROWS + place % VQ_TILE_ROWS;
      out_keys[query * k + at] = keys[place];
      out_scores[query * k + at] = scores[from];
#else
      out[at] = (int)place;
#endif
    }
    __syncthreads();
  }
  for (int i = written + threadIdx.x; i < k; i += blockDim.x) {
    out[i] = -1;
#if VQ_COLLECT
    out_keys[query * k + i] = VQ_MINUS_INF;
    out_scores[query * k + i] = VQ_MINUS_INF;
#endif
  }
}
