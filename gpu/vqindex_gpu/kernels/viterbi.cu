// uses: common.cuh
// Runs the trellis search (vqindex/codes/trellis.py, "Search"). One thread handles one state; a block searches several
// vectors at a time and takes further ones in turn.
//
// Costs are integers. The reference subtracts the least cost after each coordinate, so that costs fit 16 bits. The
// subtraction changes no comparison. Without it 32 bits suffice, because a coordinate costs at most
// 32767 / (window / bits).
//
// `choices` is scratch: VQ_THREADS bytes for each coordinate and block.

#define VQ_STATES (1 << (VQ_WINDOW - VQ_BITS))
#define VQ_VECTORS (VQ_THREADS / VQ_STATES)
#define VQ_WARMUP_FIELDS (VQ_WINDOW / VQ_BITS - 1)
// The cost of a forbidden start. It exceeds the cost of every path for as long as the window contains a starting field.
#define VQ_FORBIDDEN_COST (1 << 24)

VQ_KERNEL(VQ_THREADS)
vq_viterbi(const short* values, i64 rows, int dim, const signed char* levels, int limit, int start_mask, u8* choices,
           u8* fields) {
  __shared__ int path_cost[2][VQ_THREADS];
  const int state = threadIdx.x % VQ_STATES, vector = threadIdx.x / VQ_STATES, first = threadIdx.x - state;
  choices += (u64)blockIdx.x * dim * VQ_THREADS;
  int state_levels[1 << VQ_BITS];
#pragma unroll
  for (int i = 0; i < 1 << VQ_BITS; ++i) state_levels[i] = levels[state << VQ_BITS | i] * 128;

  for (i64 start = (i64)blockIdx.x * VQ_VECTORS; start < rows; start += (i64)gridDim.x * VQ_VECTORS) {
    const i64 row = start + vector;
    const short* row_values = values + (row < rows ? row : rows - 1) * dim;  // spare threads repeat the last vector
    path_cost[0][threadIdx.x] = 0;
    __syncthreads();
    for (int t = 0; t < dim; ++t) {
      const int* previous_cost = path_cost[t % 2] + first;
      const int value = row_values[t];
      const int forbidden = t <= VQ_WARMUP_FIELDS ? start_mask >> (t * VQ_BITS) : 0;  // starts that cannot be stored
      int best = 0x7fffffff, choice = 0;
#pragma unroll
      for (int i = 0; i < 1 << VQ_BITS; ++i) {  // ties keep the lowest dropped bits, which come first
        int x = value - state_levels[i];
        x = (x < -limit ? -limit : x > limit ? limit : x) * (1 << VQ_GAIN);
        int cost = previous_cost[(state << VQ_BITS | i) & (VQ_STATES - 1)] + (x * x >> 16);
        if ((state << VQ_BITS | i) & forbidden) cost = VQ_FORBIDDEN_COST;
        if (cost < best) {
          best = cost;
          choice = i;
        }
      }
      path_cost[(t + 1) % 2][threadIdx.x] = best;
      choices[(u64)t * VQ_THREADS + threadIdx.x] = (u8)choice;
      __syncthreads();
    }
    // One thread for each vector walks back from the best last state.
    if (state == 0 && row < rows) {
      const int* last_cost = path_cost[dim % 2] + first;
      int at = 0;
      for (int s = 1; s < VQ_STATES; ++s)
        if (last_cost[s] < last_cost[at]) at = s;
      u8* out = fields + row * (dim + VQ_WARMUP_FIELDS);
      for (int t = dim - 1; t >= 0; --t) {
        int window = at << VQ_BITS | choices[(u64)t * VQ_THREADS + first + at];
        out[VQ_WARMUP_FIELDS + t] = (u8)(window >> (VQ_WINDOW - VQ_BITS));
        at = window & (VQ_STATES - 1);
      }
      for (int i = 0; i < VQ_WARMUP_FIELDS; ++i) out[i] = (u8)(at >> (i * VQ_BITS) & ((1 << VQ_BITS) - 1));
    }
    __syncthreads();
  }
}
