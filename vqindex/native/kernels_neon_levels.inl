// Decoding of packed rows: a part of kernels_neon.inl, included inside its namespaces.

// A table of REGISTERS * 16 levels; at() looks up 16 of them. If `half_size` is not 0, the lower half has the levels of
// clear sign bits and the upper half those of set ones. A half has at least eight entries.
template <int REGISTERS>
struct Table {
  uint8x16_t entries[REGISTERS];

  VQ_T VQ_INLINE Table(const std::int8_t* repeated, std::size_t half_size) {
    const std::uint8_t* clear = reinterpret_cast<const std::uint8_t*>(repeated);
    if (REGISTERS == 1) {
      entries[0] = half_size ? vcombine_u8(vld1_u8(clear), vld1_u8(clear + half_size)) : vld1q_u8(clear);
    } else {
      VQ_UNROLL
      for (int i = 0; i < REGISTERS; ++i) {
        const bool set = half_size && i >= REGISTERS / 2;
        entries[i] = vld1q_u8(clear + (set ? half_size + 16 * (i - REGISTERS / 2) : std::size_t(16 * i)));
      }
    }
  }
  VQ_T VQ_INLINE uint8x16x4_t four(int first) const {
    return {{entries[first], entries[first + 1], entries[first + 2], entries[first + 3]}};
  }
  // Looks up indices of eight bits in the 256 levels from entries[first] on, or in all if there are fewer.
  VQ_T VQ_INLINE uint8x16_t low_bits(uint8x16_t index, int first) const {
    constexpr int kEnd = REGISTERS < 16 ? REGISTERS : 16;
    uint8x16_t x = vqtbl4q_u8(four(first), index);
    VQ_UNROLL
    for (int i = 4; i < kEnd; i += 4)
      x = vqtbx4q_u8(x, four(first + i), vsubq_u8(index, vdupq_n_u8(static_cast<std::uint8_t>(16 * i))));
    return x;
  }
  // `index` has the low eight bits of the indices; `ninth` is a mask of their ninth bit.
  VQ_T VQ_INLINE int8x16_t at(uint8x16_t index, uint8x16_t ninth) const {
    uint8x16_t x;
    if constexpr (REGISTERS == 1) x = vqtbl1q_u8(entries[0], index);
    if constexpr (REGISTERS == 2) x = vqtbl2q_u8({{entries[0], entries[1]}}, index);
    if constexpr (REGISTERS >= 4) x = low_bits(index, 0);
    if constexpr (REGISTERS == 32) x = vbslq_u8(ninth, low_bits(index, 16), x);
    return vreinterpretq_s8_u8(x);
  }
};

// Calls use(t, levels) with 16 levels from t on; levels past the dimension are arbitrary. Field i of these begins at
// bit i * step, and its window of at most 9 bits lies in the two bytes from there.
template <int REGISTERS, bool TRELLIS, typename Use>
VQ_T VQ_INLINE void each_16(const Fields& f, const std::uint8_t* row, std::size_t row_bytes, const std::uint8_t* signs,
                            Use& use) {
  const Table<REGISTERS> table(f.repeated, f.tops == 1 ? repeated_size(f.window) : 0);
  const std::uint16_t iota[8] = {0, 1, 2, 3, 4, 5, 6, 7};
  uint8x16_t bytes[2];
  int16x8_t shift[2];
  VQ_UNROLL
  for (std::uint16_t i = 0; i < 2; ++i) {
    const uint16x8_t field = vaddq_u16(vld1q_u16(iota), vdupq_n_u16(static_cast<std::uint16_t>(8 * i)));
    const uint16x8_t begin = vmulq_n_u16(field, static_cast<std::uint16_t>(f.step));
    const uint16x8_t byte = vshrq_n_u16(begin, 3);
    bytes[i] = vreinterpretq_u8_u16(vaddq_u16(vmulq_n_u16(byte, 257), vdupq_n_u16(256)));  // byte, byte + 1
    shift[i] = vnegq_s16(vreinterpretq_s16_u16(vandq_u16(begin, vdupq_n_u16(7))));
  }
  const uint16x8_t mask = vdupq_n_u16(static_cast<std::uint16_t>((1 << f.window) - 1));
  // The place in an index of the newest top bit, then of earlier ones. A ninth bit has no place in a byte: it goes by
  // `ninth`.
  uint8x16_t place[4];
  const int newest = TRELLIS ? f.window + f.tops - 1 : std::max(f.window, 3);
  VQ_UNROLL
  for (int i = 0; i < 4; ++i) place[i] = vdupq_n_u8(static_cast<std::uint8_t>(i < f.tops ? 1 << (newest - i) : 0));
  uint8x16_t before = vdupq_n_u8(0);

  // No load goes past the end of the row: the last ones begin earlier, and their bytes are looked up further on.
  std::uint8_t spare[16] = {};
  if (row_bytes < 16) {
    std::memcpy(spare, row, row_bytes);
    row = spare;
    row_bytes = 16;
  }
  const std::size_t last = row_bytes - 16, group_bytes = 2 * static_cast<std::size_t>(f.step);
  std::size_t from = 0;
  for (std::size_t t = 0; t < f.dim; t += 16, from += group_bytes) {
    const std::size_t base = std::min(from, last);
    const uint8x16_t word = vld1q_u8(row + base);
    const uint8x16_t ahead = vdupq_n_u8(static_cast<std::uint8_t>(std::min<std::size_t>(from - base, 16)));
    uint16x8_t window[2];
    VQ_UNROLL
    for (int i = 0; i < 2; ++i) {
      const uint8x16_t two = vqtbl1q_u8(word, vaddq_u8(bytes[i], ahead));
      window[i] = vandq_u16(vshlq_u16(vreinterpretq_u16_u8(two), shift[i]), mask);
    }
    uint8x16_t index = narrowed(window[0], window[1]);
    uint8x16_t ninth =
        vtstq_u8(vuzp2q_u8(vreinterpretq_u8_u16(window[0]), vreinterpretq_u8_u16(window[1])), vdupq_n_u8(1));
    if (f.tops) {
      uint8x16_t top = sign_mask(signs + t / 8);
      if constexpr (TRELLIS) {
        top = veorq_u8(top, vtstq_u8(index, vdupq_n_u8(1)));
        index = vorrq_u8(index, vandq_u8(vextq_u8(before, top, 15), place[1]));
        index = vorrq_u8(index, vandq_u8(vextq_u8(before, top, 14), place[2]));
        index = vorrq_u8(index, vandq_u8(vextq_u8(before, top, 13), place[3]));
        before = top;
      }
      index = vorrq_u8(index, vandq_u8(top, place[0]));
      ninth = top;
    }
    use(t, table.at(index, ninth));
  }
}

struct Store {
  std::int8_t* levels;
  VQ_T VQ_INLINE void operator()(std::size_t t, int8x16_t x) { vst1q_s8(levels + t, x); }
};

// Decodes by the kernel for the window's width; returns false if there is none for it.
template <typename Use>
VQ_T VQ_INLINE bool by_window(const Fields& f, const std::uint8_t* row, std::size_t row_bytes,
                              const std::uint8_t* signs, Use& use) {
  if (f.tops > 1) {
    if (f.window + f.tops == 8) return each_16<16, true>(f, row, row_bytes, signs, use), true;
    if (f.window + f.tops == 9) return each_16<32, true>(f, row, row_bytes, signs, use), true;
    return false;
  }
  switch (f.tops ? std::max(f.window, 3) + 1 : std::max(f.window, 4)) {
    case 4:
      return each_16<1, false>(f, row, row_bytes, signs, use), true;
    case 5:
      return each_16<2, false>(f, row, row_bytes, signs, use), true;
    case 6:
      return each_16<4, false>(f, row, row_bytes, signs, use), true;
    case 7:
      return each_16<8, false>(f, row, row_bytes, signs, use), true;
    case 8:
      return each_16<16, false>(f, row, row_bytes, signs, use), true;
    case 9:
      return each_16<32, false>(f, row, row_bytes, signs, use), true;
    default:
      return false;
  }
}

VQ_T void decode_s8(const Fields& f, const std::uint8_t* row, std::size_t row_bytes, const std::uint8_t* signs,
                    std::int8_t* levels) {
  Store store{levels};
  if (!by_window(f, row, row_bytes, signs, store)) return plain::decode_s8(f, row, row_bytes, signs, levels);
  std::memset(levels + f.dim, 0, padded(f.dim, 64) - f.dim);
}

VQ_T std::int64_t decode_dot_one(const Fields& f, const std::uint8_t* row, std::size_t row_bytes,
                                 const std::uint8_t* signs, const std::int16_t* query, std::int8_t* levels) {
  Dot sum(query);
  if (by_window(f, row, row_bytes, signs, sum)) {
    sum.flush();
    return sum.total;
  }
  plain::decode_s8(f, row, row_bytes, signs, levels);
  return dot_s8s16(levels, query, padded(f.dim, 64));
}
