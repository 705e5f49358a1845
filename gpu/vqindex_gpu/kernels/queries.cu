// uses: common.cuh layout.cuh
// int16 queries as fragments B of the scan, eight queries a group.
//
//     lead = 256 high + low, high int8, low uint8:  fragments[group][step][lane] = {high 0, high 1, low 0, low 1}
//     c of sign_bound.py, int8:                         coarse[group][step][lane] = {c 0, c 1}
//
// Groups past the last query are zero.
// Step s of a chunk multiplies eight coordinates of each lane; `phases` says which (scan.cu: vq_decode).

VQ_KERNEL(VQ_THREADS)
vq_queries(const short* lead, const signed char* c, int count, int groups, int dim, int chunks, int phases,
           uint4* fragments, uint2* coarse) {
  const int steps = 8 / VQ_SLOT;
  const u64 index = (u64)blockIdx.x * blockDim.x + threadIdx.x;
  const int lane = (int)(index % 32), s = (int)(index / 32 % steps), chunk = (int)(index / (32 * steps) % chunks);
  const i64 group = (i64)(index / (32 * steps) / chunks);
  if (group >= groups) return;
  const i64 query = group * 8 + lane / 4;
  u32 high[2] = {0, 0}, low[2] = {0, 0}, small[2] = {0, 0};
  for (int i = 0; i < 8; ++i) {
    const int j = chunk * VQ_PER_CHUNK + lane % 4 * VQ_PER_LANE + s / phases * (8 * phases) + i * phases + s % phases;
    if (query >= count || j >= dim) continue;
    const int value = lead[query * dim + j];
    high[i / 4] |= (u32)(value >> 8 & 255) << (i % 4 * 8);
    low[i / 4] |= (u32)(value & 255) << (i % 4 * 8);
    if (c) small[i / 4] |= (u32)(c[query * dim + j] & 255) << (i % 4 * 8);
  }
  fragments[index] = make_uint4(high[0], high[1], low[0], low[1]);
  if (c) coarse[index] = make_uint2(small[0], small[1]);
}
