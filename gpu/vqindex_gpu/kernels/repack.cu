// uses: common.cuh layout.cuh
// Converts uploaded rows from packed fields to the device layout. One thread writes 8 bytes.
//
// `sign_bits` is null for code rows (vqindex/codes/packing.py). Otherwise it holds the sign bits of the stored layout,
// and `codes` holds the other bits of each field (vqindex/codes/bitplanes.py); the first `warmup_fields` fields have no
// sign bit. A trellis row is converted to the fields of its path: the lowest bit of a field flips the highest bit of
// the field `warmup_fields` places later (`Trellis.swapped`).

// Returns `bits` bits of a stream, starting at bit `at`.
__device__ __forceinline__ u32 vq_field(const u8* stream, u64 at, int bits, u64 bytes) {
  u32 v = stream[at / 8];
  if (at / 8 + 1 < bytes) v |= (u32)stream[at / 8 + 1] << 8;
  return v >> (at % 8) & ((1u << bits) - 1);
}

VQ_KERNEL(VQ_THREADS)
vq_repack(const u8* codes, const u8* sign_bits, int row_bytes, int sign_bytes, int fields, int bits, int warmup_fields,
          i64 start, i64 rows, int chunks, u64* out) {
  const u64 index = (u64)blockIdx.x * blockDim.x + threadIdx.x;
  const int words = chunks * 4, word = (int)(index % words);
  const i64 row = (i64)(index / words);
  if (row >= rows) return;
  const u8* stream = codes + row * row_bytes;
  const int code_bits = sign_bits ? bits - 1 : bits;
  u64 packed = 0;
  for (int i = 0; i < VQ_PER_LANE; ++i) {
    const int j = word * VQ_PER_LANE + i;
    if (j >= fields) break;
    u32 field = code_bits ? vq_field(stream, (u64)j * code_bits, code_bits, row_bytes) : 0;
    if (sign_bits && j >= warmup_fields) {
      const int at = j - warmup_fields;
      u32 sign = sign_bits[(row / 64 * sign_bytes + at / 8) * 64 + row % 64] >> (at % 8) & 1;
      if (warmup_fields) sign ^= vq_field(stream, (u64)at * code_bits, 1, row_bytes);
      field |= sign << code_bits;
    }
    packed |= (u64)field << (i * VQ_SLOT);
  }
  out[vq_word_at((int)(start + row), word / 4, word % 4, chunks)] = packed;
}
