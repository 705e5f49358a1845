// uses: common.cuh layout.cuh
// Rows on their way out: some rows of the device layout as packed code rows, a thread for each byte. `lead` as in
// repack.cu, 0 for all but a trellis with signs.

__device__ __forceinline__ u32 vq_bit(const u64* stored, int row, int j, int part, int chunks) {
  const int word = j / VQ_PER_LANE;
  return (u32)(stored[vq_word_at(row, word / 4, word % 4, chunks)] >> (j % VQ_PER_LANE * VQ_SLOT + part) & 1);
}

VQ_KERNEL(VQ_THREADS)
vq_gather(const u64* stored, const i64* at, i64 rows, int fields, int bits, int lead, int chunks, int code_bytes,
          u8* codes) {
  const u64 index = (u64)blockIdx.x * blockDim.x + threadIdx.x;
  const i64 row = (i64)(index / code_bytes);
  const int byte = (int)(index % code_bytes);
  if (row >= rows) return;
  u32 out = 0;
  for (int bit = 0; bit < 8; ++bit) {
    const int j = (byte * 8 + bit) / bits;
    if (j >= fields) break;
    const int part = (byte * 8 + bit) % bits;
    u32 value = vq_bit(stored, (int)at[row], j, part, chunks);
    if (lead && j >= lead && part == bits - 1) value ^= vq_bit(stored, (int)at[row], j - lead, 0, chunks);
    out |= value << bit;
  }
  codes[row * code_bytes + byte] = (u8)out;
}
