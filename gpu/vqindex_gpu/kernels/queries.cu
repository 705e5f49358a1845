// uses: common.cuh layout.cuh
// Converts int16 queries to the B fragments of scan.cu. Eight queries, the width of fragment B, form a group. One
// thread writes the fragments of one lane.
//
//     code_query = 256 high + low, with int8 high and uint8 low:
//         code_fragments[group][chunk][step][lane] = {high 0, high 1, low 0, low 1}
//     sign_query, the int8 query c of sign_bound.py:
//         sign_fragments[group][chunk][step][lane] = {c 0, c 1}
//
// Groups past the last query are zero. Step s of a chunk multiplies eight coordinates of each lane; `phases` determines
// which ones, in the order of vq_decode in scan.cu.

VQ_KERNEL(VQ_THREADS)
vq_queries(const short* code_query, const signed char* sign_query, int count, int groups, int dim, int chunks,
           int phases, uint4* code_fragments, uint2* sign_fragments) {
  const int steps = 8 / VQ_SLOT;
  const u64 index = (u64)blockIdx.x * blockDim.x + threadIdx.x;
  const int lane = (int)(index % 32), s = (int)(index / 32 % steps), chunk = (int)(index / (32 * steps) % chunks);
  const i64 group = (i64)(index / (32 * steps) / chunks);
  if (group >= groups) return;
  const i64 query = group * 8 + lane / 4;
  u32 high[2] = {0, 0}, low[2] = {0, 0}, c[2] = {0, 0};
  for (int i = 0; i < 8; ++i) {
    const int j = chunk * VQ_PER_CHUNK + lane % 4 * VQ_PER_LANE + s / phases * (8 * phases) + i * phases + s % phases;
    if (query >= count || j >= dim) continue;
    const int value = code_query[query * dim + j];
    high[i / 4] |= (u32)(value >> 8 & 255) << (i % 4 * 8);
    low[i / 4] |= (u32)(value & 255) << (i % 4 * 8);
    if (sign_query) c[i / 4] |= (u32)(sign_query[query * dim + j] & 255) << (i % 4 * 8);
  }
  code_fragments[index] = make_uint4(high[0], high[1], low[0], low[1]);
  if (sign_query) sign_fragments[index] = make_uint2(c[0], c[1]);
}
