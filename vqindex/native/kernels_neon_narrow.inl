// Products of packed levels and an int8 query of magnitudes up to 127: a part of kernels_neon.inl, included inside its
// namespaces.

// For each_16 of a decoder.
struct NarrowDot {
  const std::int8_t* query;
  int32x4_t sum;

  VQ_T VQ_INLINE explicit NarrowDot(const NarrowQuery& values) : query(values.values), sum(vdupq_n_s32(0)) {}
  VQ_T VQ_INLINE void operator()(std::size_t t, int8x16_t levels) {
    sum = add_narrow(sum, levels, vld1q_s8(query + t));
  }
};

// Whole scalar codes of four bits: 32 levels from 16 bytes. The last bytes of a row are copied, so that no load goes
// past its end.
VQ_T VQ_INLINE std::int32_t dot_nibbles(const Fields& f, const std::uint8_t* row, std::size_t row_bytes,
                                        const std::int8_t* query) {
  const int8x16_t table = vld1q_s8(f.repeated);
  int32x4_t even = vdupq_n_s32(0), odd = even;
  for (std::size_t at = 0; at < f.dim; at += 32) {
    const std::size_t begin = at / 2;
    std::uint8_t spare[16] = {};
    if (row_bytes - begin < 16) std::memcpy(spare, row + begin, row_bytes - begin);
    const uint8x16_t bytes = vld1q_u8(row_bytes - begin < 16 ? spare : row + begin);
    const uint8x16_t low = vandq_u8(bytes, vdupq_n_u8(15)), high = vshrq_n_u8(bytes, 4);
    even = add_narrow(even, vqtbl1q_s8(table, vzip1q_u8(low, high)), vld1q_s8(query + at));
    odd = add_narrow(odd, vqtbl1q_s8(table, vzip2q_u8(low, high)), vld1q_s8(query + at + 16));
  }
  return vaddvq_s32(vaddq_s32(even, odd));
}

VQ_T void decode_dot_s8s8(const Fields& f, const std::uint8_t* const* records, std::size_t code_at,
                          std::size_t row_bytes, std::size_t count, const NarrowQuery& query, std::int8_t* levels,
                          std::int32_t* sums) {
  for (std::size_t i = 0; i < count; ++i) {
    const std::uint8_t* row = records[i] + code_at;
    NarrowDot dot(query);
    if (f.step == 4 && f.window == 4 && f.tops == 0) {
      sums[i] = dot_nibbles(f, row, row_bytes, query.values);
    } else if (by_window(f, row, row_bytes, records[i], dot)) {
      sums[i] = vaddvq_s32(dot.sum);
    } else {
      plain::decode_s8(f, row, row_bytes, records[i], levels);
      sums[i] = dot_s8s8(levels, query.values, padded(f.dim, 64));
    }
  }
}
