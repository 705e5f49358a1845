// uses: common.cuh
// The trellis search (vqindex/codes/trellis.py, "Search"): a thread a state, several vectors a block.
//
// Costs are integers. The reference takes the least cost off after each coordinate, to stay in 16 bits; comparisons do
// not see that, and without it 32 bits hold every path: a coordinate costs 32767 / (window / bits) at most.
//
// choices: scratch for VQ_THREADS bytes a coordinate and block; blocks take vectors in turn.

#define VQ_STATES (1 << (VQ_WINDOW - VQ_BITS))
#define VQ_VECTORS (VQ_THREADS / VQ_STATES)
#define VQ_LEAD (VQ_WINDOW / VQ_BITS - 1)
#define VQ_NEVER (1 << 24)  // more than a path costs by the time that all starts have left the window

VQ_KERNEL(VQ_THREADS)
vq_viterbi(const short* values, i64 rows, int dim, const signed char* table, int limit, int start_mask, u8* choices,
           u8* fields) {
  __shared__ int path[2][VQ_THREADS];
  const int state = threadIdx.x % VQ_STATES, vector = threadIdx.x / VQ_STATES, first = threadIdx.x - state;
  choices += (u64)blockIdx.x * dim * VQ_THREADS;
  int levels[1 << VQ_BITS];
#pragma unroll
  for (int i = 0; i < 1 << VQ_BITS; ++i) levels[i] = table[state << VQ_BITS | i] * 128;

  for (i64 start = (i64)blockIdx.x * VQ_VECTORS; start < rows; start += (i64)gridDim.x * VQ_VECTORS) {
    const i64 row = start + vector;
    const short* mine = values + (row < rows ? row : rows - 1) * dim;  // spare lanes repeat the last vector
    path[0][threadIdx.x] = 0;
    __syncthreads();
    for (int t = 0; t < dim; ++t) {
      const int* before = path[t % 2] + first;
      const int value = mine[t];
      const int forbidden = t <= VQ_LEAD ? start_mask >> (t * VQ_BITS) : 0;  // starts that can't be stored
      int best = 0x7fffffff, choice = 0;
#pragma unroll
      for (int i = 0; i < 1 << VQ_BITS; ++i) {  // lowest dropped bits first: ties keep them
        int x = value - levels[i];
        x = (x < -limit ? -limit : x > limit ? limit : x) * (1 << VQ_GAIN);
        int cost = before[(state << VQ_BITS | i) & (VQ_STATES - 1)] + (x * x >> 16);
        if ((state << VQ_BITS | i) & forbidden) cost = VQ_NEVER;
        if (cost < best) {
          best = cost;
          choice = i;
        }
      }
      path[(t + 1) % 2][threadIdx.x] = best;
      choices[(u64)t * VQ_THREADS + threadIdx.x] = (u8)choice;
      __syncthreads();
    }
    if (state == 0 && row < rows) {
      const int* last = path[dim % 2] + first;
      int at = 0;
      for (int s = 1; s < VQ_STATES; ++s)
        if (last[s] < last[at]) at = s;
      u8* out = fields + row * (dim + VQ_LEAD);
      for (int t = dim - 1; t >= 0; --t) {
        int window = at << VQ_BITS | choices[(u64)t * VQ_THREADS + first + at];
        out[VQ_LEAD + t] = (u8)(window >> (VQ_WINDOW - VQ_BITS));
        at = window & (VQ_STATES - 1);
      }
      for (int i = 0; i < VQ_LEAD; ++i) out[i] = (u8)(at >> (i * VQ_BITS) & ((1 << VQ_BITS) - 1));
    }
    __syncthreads();
  }
}
