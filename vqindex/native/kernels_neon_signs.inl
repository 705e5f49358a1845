// The kernels over sign bits: a part of kernels_neon.inl, included inside its namespaces.

VQ_T void sign_tables_s8u8(const std::int8_t* query, std::size_t units, std::uint8_t* tables) {
  const std::uint8_t iota[16] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
  const uint8x16_t index = vld1q_u8(iota);
  for (std::size_t u = 0; u < units; ++u, tables += kUnitTable)
    for (std::size_t g = 0; g < 6; ++g, query += 4) {
      int8x16_t sum = vdupq_n_s8(0);
      VQ_UNROLL
      for (int j = 0; j < 4; ++j) {
        const int8x16_t x = vdupq_n_s8(query[j]);
        const uint8x16_t set = vtstq_u8(index, vdupq_n_u8(static_cast<std::uint8_t>(1 << j)));
        sum = vaddq_s8(sum, vmaxq_s8(vdupq_n_s8(0), vbslq_s8(set, x, vnegq_s8(x))));
      }
      vst1q_s8(reinterpret_cast<std::int8_t*>(tables) + g * 16, sum);
    }
}

// Sums a block of 64 rows; all sums stay in registers.
VQ_T VQ_INLINE void block_sums(const std::uint8_t* block, std::size_t bytes, const std::uint8_t* tables,
                               std::uint16_t* sums) {
  uint16x8_t sum[8];
  VQ_UNROLL
  for (auto& s : sum) s = vdupq_n_u16(0);
  for (std::size_t j = 0; j < bytes; j += kUnitBytes, tables += kUnitTable) {
    uint8x16_t entry[4];  // six entries of at most 20 fit a byte
    VQ_UNROLL
    for (std::size_t i = 0; i < kUnitBytes; ++i) {
      const uint8x16_t low = vld1q_u8(tables + i * 32), high = vld1q_u8(tables + i * 32 + 16);
      const bool is_present = j + i < bytes;
      VQ_UNROLL
      for (int r = 0; r < 4; ++r) {
        const uint8x16_t x = is_present ? vld1q_u8(block + (j + i) * kBlockRows + r * 16) : vdupq_n_u8(0);
        const uint8x16_t two =
            vaddq_u8(vqtbl1q_u8(low, vandq_u8(x, vdupq_n_u8(15))), vqtbl1q_u8(high, vshrq_n_u8(x, 4)));
        entry[r] = i ? vaddq_u8(entry[r], two) : two;
      }
    }
    VQ_UNROLL
    for (int r = 0; r < 4; ++r) {
      sum[2 * r] = vaddw_u8(sum[2 * r], vget_low_u8(entry[r]));
      sum[2 * r + 1] = vaddw_high_u8(sum[2 * r + 1], entry[r]);
    }
  }
  VQ_UNROLL
  for (int r = 0; r < 8; ++r) vst1q_u16(sums + r * 8, sum[r]);
}

VQ_T void sign_blocks_u8u16(const std::uint8_t* signs, std::size_t bytes, std::size_t blocks,
                            const std::uint8_t* tables, std::size_t, std::uint16_t* sums) {
  for (std::size_t b = 0; b < blocks; ++b)
    block_sums(signs + b * bytes * kBlockRows, bytes, tables, sums + b * kBlockRows);
}

VQ_SIGN_BLOCKS_AS_TILE(VQ_T)

// Copies the sign bits of all rows of a block: transposes bytes, 16 rows of eight bytes at a time, in pairs, fours,
// then eights.
VQ_T VQ_INLINE void all_sign_rows(const std::uint8_t* block, std::size_t bytes, std::uint8_t* rows,
                                  std::size_t stride) {
  std::size_t j = 0;
  for (; j + 8 <= bytes; j += 8)
    for (std::size_t r = 0; r < kBlockRows; r += 16) {
      uint16x8_t two[4][2];
      VQ_UNROLL
      for (std::size_t i = 0; i < 4; ++i) {
        const uint8x16_t a = vld1q_u8(block + (j + 2 * i) * kBlockRows + r);
        const uint8x16_t b = vld1q_u8(block + (j + 2 * i + 1) * kBlockRows + r);
        two[i][0] = vreinterpretq_u16_u8(vzip1q_u8(a, b));
        two[i][1] = vreinterpretq_u16_u8(vzip2q_u8(a, b));
      }
      VQ_UNROLL
      for (std::size_t half = 0; half < 2; ++half) {  // of the 16 rows
        const uint32x4_t a = vreinterpretq_u32_u16(vzip1q_u16(two[0][half], two[1][half]));
        const uint32x4_t b = vreinterpretq_u32_u16(vzip2q_u16(two[0][half], two[1][half]));
        const uint32x4_t c = vreinterpretq_u32_u16(vzip1q_u16(two[2][half], two[3][half]));
        const uint32x4_t d = vreinterpretq_u32_u16(vzip2q_u16(two[2][half], two[3][half]));
        const uint32x4_t eight[4] = {vzip1q_u32(a, c), vzip2q_u32(a, c), vzip1q_u32(b, d), vzip2q_u32(b, d)};
        std::uint8_t* out = rows + (r + 8 * half) * stride + j;
        VQ_UNROLL
        for (std::size_t i = 0; i < 4; ++i) {
          const uint8x16_t x = vreinterpretq_u8_u32(eight[i]);
          vst1_u8(out + 2 * i * stride, vget_low_u8(x));
          vst1_u8(out + (2 * i + 1) * stride, vget_high_u8(x));
        }
      }
    }
  for (; j < bytes; ++j)
    for (std::size_t r = 0; r < kBlockRows; ++r) rows[r * stride + j] = block[j * kBlockRows + r];
}

VQ_T void sign_rows_u8(const std::uint8_t* block, std::size_t bytes, std::uint64_t mask, std::uint8_t* rows,
                       std::size_t stride) {
  if (!~mask) return all_sign_rows(block, bytes, rows, stride);
  plain::sign_rows_u8(block, bytes, mask, rows, stride);
}
