// uses: common.cuh layout.cuh
// Rows on their way in: packed fields to the device layout, a thread for each 8 bytes.
//
// `signs` is null for code rows (vqindex/packing.py). Otherwise it is the sign plane of the stored layout and `codes`
// are the other bits (vqindex/codes/bitplanes.py); the first `lead` fields have no sign. The fields of a trellis go to
// the device as those of its path: the lowest bit of the field `lead` places before turns the highest (trellis.py).

// `bits` bits of a stream from bit `at` on.
__device__ __forceinline__ u32 vq_field(const u8* stream, u64 at, int bits, u64 bytes) {
  u32 v = stream[at / 8];
  if (at / 8 + 1 < bytes) v |= (u32)stream[at / 8 + 1] << 8;
  return v >> (at % 8) & ((1u << bits) - 1);
}

VQ_KERNEL(VQ_THREADS)
vq_repack(const u8* codes, const u8* signs, int row_bytes, int sign_bytes, int fields, int bits, int lead, i64 start,
          i64 rows, int chunks, u64* out) {
  const u64 index = (u64)blockIdx.x * blockDim.x + threadIdx.x;
  const int words = chunks * 4, word = (int)(index % words);
  const i64 row = (i64)(index / words);
  if (row >= rows) return;
  const u8* stream = codes + row * row_bytes;
  const int rest = signs ? bits - 1 : bits;
  u64 packed = 0;
  for (int i = 0; i < VQ_PER_LANE; ++i) {
    const int j = word * VQ_PER_LANE + i;
    if (j >= fields) break;
    u32 field = rest ? vq_field(stream, (u64)j * rest, rest, row_bytes) : 0;
    if (signs && j >= lead) {
      const int at = j - lead;
      u32 sign = signs[(row / 64 * sign_bytes + at / 8) * 64 + row % 64] >> (at % 8) & 1;
      if (lead) sign ^= vq_field(stream, (u64)at * rest, 1, row_bytes);
      field |= sign << rest;
    }
    packed |= (u64)field << (i * VQ_SLOT);
  }
  out[vq_word_at((int)(start + row), word / 4, word % 4, chunks)] = packed;
}
