// Decoding of packed rows: a part of kernels_avx512.inl, included inside its namespaces.

VQ_T VQ_INLINE __mmask64 first(std::size_t bytes) { return bytes >= 64 ? ~__mmask64{0} : _bzhi_u64(~0ull, bytes); }

// Whether the fields are half bytes: whole scalar codes of four bits.
VQ_INLINE bool has_nibbles(const Fields& f) { return f.step == 4 && f.window == 4 && f.tops == 0; }

// Returns 64 fields of four bits, a byte each, from the first `remaining` bytes at `row`, or 32 if there are more.
// Reads no other bytes.
VQ_T VQ_INLINE __m512i nibbles(const std::uint8_t* row, std::size_t remaining) {
  const __m256i bytes = remaining >= 32 ? _mm256_loadu_si256(reinterpret_cast<const __m256i*>(row))
                                        : _mm256_maskz_loadu_epi8(static_cast<__mmask32>(first(remaining)), row);
  const __m512i wide = _mm512_cvtepu8_epi16(bytes);
  constexpr int kOrAnd = 0xA8;  // (a | b) & c
  return _mm512_ternarylogic_epi32(wide, _mm512_slli_epi16(wide, 4), _mm512_set1_epi8(15), kOrAnd);
}

#ifdef VQ_VBMI
// A table of 2^BITS levels in registers; at() looks up 64 of them.
template <int BITS>
struct Table {
  static constexpr int kRegisters = BITS <= 6 ? 1 : 1 << (BITS - 6);
  __m512i entries[kRegisters];

  VQ_T VQ_INLINE explicit Table(const std::int8_t* repeated) {
    VQ_UNROLL
    for (int i = 0; i < kRegisters; ++i) entries[i] = _mm512_loadu_si512(repeated + 64 * i);
  }
  // `low` has bits 0..7 of the windows, with arbitrary bits from BITS on; `high` has bits 1..8.
  VQ_T VQ_INLINE __m512i at(__m512i low, __m512i high) const {
    static_assert(BITS <= 9);
    if constexpr (BITS == 0) return entries[0];
    if constexpr (BITS > 0 && BITS <= 6) return _mm512_permutexvar_epi8(low, entries[0]);
    if constexpr (BITS == 7) return _mm512_permutex2var_epi8(entries[0], low, entries[1]);
    if constexpr (BITS >= 8) {
      __m512i x = half(low, 0);
      if constexpr (BITS == 9) x = _mm512_mask_blend_epi8(_mm512_movepi8_mask(high), x, half(low, 4));
      return x;
    }
  }
  VQ_T VQ_INLINE __m512i half(__m512i low, int first) const {
    if constexpr (BITS >= 8) {
      const __m512i a = _mm512_permutex2var_epi8(entries[first], low, entries[first + 1]);
      const __m512i b = _mm512_permutex2var_epi8(entries[first + 2], low, entries[first + 3]);
      return _mm512_mask_blend_epi8(_mm512_movepi8_mask(low), a, b);
    }
    return low;
  }
};

// Returns the bytes of 64 fields from `row` on, each byte in the word that its window is shifted from. Fields of at
// most a byte that begin at most three bits apart lie in 32 bytes, and so do fields of four bits. Reads no byte outside
// the row, nor its cache line.
VQ_T VQ_INLINE __m512i words(const std::uint8_t* row, const std::uint8_t* end, std::size_t row_bytes, __m512i gather) {
  const std::size_t remaining = static_cast<std::size_t>(end - row);
  __m256i bytes;
  if (remaining >= 32) {
    bytes = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(row));
  } else if (row_bytes >= 32) {
    bytes = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(end - 32));
    gather = _mm512_add_epi8(gather, _mm512_set1_epi8(static_cast<char>(32 - remaining)));
  } else {
    bytes = _mm256_maskz_loadu_epi8(static_cast<__mmask32>(_bzhi_u32(~0u, static_cast<unsigned>(remaining))), row);
  }
  return _mm512_permutexvar_epi8(gather, _mm512_zextsi256_si512(bytes));
}

// The same for fields of any step: they lie in 64 bytes.
VQ_T VQ_INLINE __m512i wide_words(const std::uint8_t* row, const std::uint8_t* end, __m512i gather) {
  const std::size_t remaining = static_cast<std::size_t>(end - row);
  return _mm512_permutexvar_epi8(gather, _mm512_maskz_loadu_epi8(first(remaining), row));
}

// Decodes rows of scalar codes: each_64 calls use(t, levels) with 64 levels of a row from t on. Levels past the
// dimension are arbitrary.
template <int BITS, int TOPS>
struct Cells {
  const std::size_t dim, step;
  const __m512i gather, shift, next;
  const Table<BITS> below, above;

  VQ_T VQ_INLINE explicit Cells(const Fields& f)
      : dim(f.dim),
        step(8 * static_cast<std::size_t>(f.step)),
        gather(_mm512_loadu_si512(f.gather)),
        shift(_mm512_loadu_si512(f.shift)),
        next(_mm512_add_epi8(shift, _mm512_set1_epi8(1))),
        below(f.repeated),
        above(f.repeated + (TOPS ? repeated_size(BITS) : 0)) {}

  template <typename Use>
  VQ_T VQ_INLINE void each_64(const std::uint8_t* row, std::size_t row_bytes, const std::uint8_t* signs,
                              Use& use) const {
    const std::uint8_t* const end = row + row_bytes;
    for (std::size_t t = 0; t < dim; t += 64, row += step) {
      __m512i low = _mm512_setzero_si512(), high = low;
      if constexpr (BITS > 0) {
        const __m512i word =
            TOPS == 0 && BITS > 3 && BITS < 9 ? wide_words(row, end, gather) : words(row, end, row_bytes, gather);
        low = _mm512_multishift_epi64_epi8(shift, word);
        if constexpr (BITS == 9) high = _mm512_multishift_epi64_epi8(next, word);
      }
      __m512i x = below.at(low, high);
      if constexpr (TOPS) {
        std::uint64_t sign;
        std::memcpy(&sign, signs + t / 8, 8);
        x = _mm512_mask_mov_epi8(x, sign, above.at(low, high));
      }
      use(t, x);
    }
  }
};

// The same for a trellis code. Seven bits of an index choose among 128 entries of two registers; its newest top bits
// choose which 128.
template <int BITS, int TOPS>
struct Trellis {
  static constexpr int kInner = 7 - BITS, kOuter = TOPS - kInner, kTables = 1 << kOuter;
  static_assert(kInner > 0 && kOuter > 0);
  const std::size_t dim, step;
  const __m512i gather, shift;
  __m512i entries[2 * kTables];

  VQ_T VQ_INLINE explicit Trellis(const Fields& f)
      : dim(f.dim),
        step(8 * static_cast<std::size_t>(f.step)),
        gather(_mm512_loadu_si512(f.gather)),
        shift(_mm512_loadu_si512(f.shift)) {
    VQ_UNROLL
    for (int i = 0; i < 2 * kTables; ++i) entries[i] = _mm512_loadu_si512(f.repeated + 64 * i);
  }

  template <typename Use>
  VQ_T VQ_INLINE void each_64(const std::uint8_t* row, std::size_t row_bytes, const std::uint8_t* signs,
                              Use& use) const {
    const __m512i one = _mm512_set1_epi8(1), bits = _mm512_set1_epi8((1 << BITS) - 1);
    const std::uint8_t* const end = row + row_bytes;
    std::uint64_t before = 0;
    for (std::size_t t = 0; t < dim; t += 64, row += step) {
      const __m512i word = words(row, end, row_bytes, gather);
      const __m512i window = _mm512_multishift_epi64_epi8(shift, word);
      std::uint64_t top;
      std::memcpy(&top, signs + t / 8, 8);
      top ^= _mm512_test_epi8_mask(window, one);
      const auto earlier = [top, before](int steps) { return steps ? top << steps | before >> (64 - steps) : top; };
      __m512i at = _mm512_and_si512(window, bits);
      VQ_UNROLL
      for (int i = 0; i < kInner; ++i)
        at = _mm512_mask_add_epi8(at, earlier(TOPS - 1 - i), at, _mm512_set1_epi8(1 << (BITS + i)));
      __m512i x[kTables];
      VQ_UNROLL
      for (int i = 0; i < kTables; ++i) x[i] = _mm512_permutex2var_epi8(entries[2 * i], at, entries[2 * i + 1]);
      VQ_UNROLL
      for (int i = 0; i < kOuter; ++i) {
        const __mmask64 upper = earlier(kOuter - 1 - i);
        VQ_UNROLL
        for (int j = 0; j < kTables >> (i + 1); ++j) x[j] = _mm512_mask_blend_epi8(upper, x[2 * j], x[2 * j + 1]);
      }
      use(t, x[0]);
      before = top;
    }
  }
};

struct Store {
  std::int8_t* levels;
  std::size_t dim;
  VQ_T VQ_INLINE void operator()(std::size_t t, __m512i x) {
    _mm512_storeu_si512(levels + t, _mm512_maskz_mov_epi8(first(dim - t), x));
  }
};

// Sums the products of levels and an int16 query, which is zero past the dimension.
struct Dot {
  const std::int16_t* query;
  __m512i a = _mm512_setzero_si512(), b = a;
  std::int64_t total = 0;

  VQ_T VQ_INLINE explicit Dot(const std::int16_t* values) : query(values) {}
  VQ_T VQ_INLINE void operator()(std::size_t t, __m512i x) {
    if (t && t % kSafe == 0) flush();
    a = pairs(a, _mm512_cvtepi8_epi16(_mm512_castsi512_si256(x)), _mm512_loadu_si512(query + t));
    b = pairs(b, _mm512_cvtepi8_epi16(_mm512_extracti64x4_epi64(x, 1)), _mm512_loadu_si512(query + t + 32));
  }
  VQ_T VQ_INLINE void flush() {
    total += wide_sum(a, b);
    a = b = _mm512_setzero_si512();
  }
};

// Calls with(decoder) with the decoder for the window's width. Returns false if there is none for it or for the step.
template <typename With>
VQ_T VQ_INLINE bool by_window(const Fields& f, const With& with) {
  if (f.step > 3 && (f.tops || f.window > 8)) return false;
  switch (16 * f.tops + f.window) {
    case 1:
      return with(Cells<1, 0>(f)), true;
    case 2:
      return with(Cells<2, 0>(f)), true;
    case 3:
      return with(Cells<3, 0>(f)), true;
    case 4:
      return with(Cells<4, 0>(f)), true;
    case 5:
      return with(Cells<5, 0>(f)), true;
    case 6:
      return with(Cells<6, 0>(f)), true;
    case 7:
      return with(Cells<7, 0>(f)), true;
    case 8:
      return with(Cells<8, 0>(f)), true;
    case 9:
      return with(Cells<9, 0>(f)), true;
    case 16 + 0:
      return with(Cells<0, 1>(f)), true;
    case 16 + 1:
      return with(Cells<1, 1>(f)), true;
    case 16 + 2:
      return with(Cells<2, 1>(f)), true;
    case 16 + 3:
      return with(Cells<3, 1>(f)), true;
    case 2 * 16 + 6:
      return with(Trellis<6, 2>(f)), true;
    case 3 * 16 + 6:
      return with(Trellis<6, 3>(f)), true;
    case 4 * 16 + 4:
      return with(Trellis<4, 4>(f)), true;
    default:
      return false;
  }
}

VQ_T void decode_s8(const Fields& f, const std::uint8_t* row, std::size_t row_bytes, const std::uint8_t* signs,
                    std::int8_t* levels) {
  Store store{levels, f.dim};
  const auto read = [&](const auto& fields) VQ_T { fields.each_64(row, row_bytes, signs, store); };
  if (!by_window(f, read)) plain::decode_s8(f, row, row_bytes, signs, levels);
}

VQ_T void decode_dot_s8s16(const Fields& f, const std::uint8_t* const* rows, std::size_t row_bytes,
                           const std::uint8_t* signs, std::size_t count, const std::int16_t* query, std::int8_t* levels,
                           std::int64_t* sums) {
  const std::size_t step = padded(f.dim, 64) / 8;
  const auto read = [&](const auto& fields) VQ_T {
    std::size_t i = 0;
    if (f.dim <= plain::kExact)
      for (; i + 4 <= count; i += 4) {
        __m512i four[4];
        VQ_UNROLL
        for (std::size_t j = 0; j < 4; ++j) {
          Dot sum(query);
          fields.each_64(rows[i + j], row_bytes, signs + (i + j) * step, sum);
          four[j] = _mm512_add_epi32(sum.a, sum.b);
        }
        const __m256i wide = _mm256_cvtepi32_epi64(four_sums(four[0], four[1], four[2], four[3]));
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(sums + i), wide);
      }
    for (; i < count; ++i) {
      Dot sum(query);
      fields.each_64(rows[i], row_bytes, signs + i * step, sum);
      sum.flush();
      sums[i] = sum.total;
    }
  };
  if (by_window(f, read)) return;
  for (std::size_t i = 0; i < count; ++i) {
    plain::decode_s8(f, rows[i], row_bytes, signs + i * step, levels);
    sums[i] = dot_s8s16(levels, query, padded(f.dim, 64));
  }
}
#else
VQ_T void decode_s8(const Fields& f, const std::uint8_t* row, std::size_t row_bytes, const std::uint8_t* signs,
                    std::int8_t* levels) {
  if (!has_nibbles(f)) return plain::decode_s8(f, row, row_bytes, signs, levels);
  const __m512i table = _mm512_loadu_si512(f.repeated);
  for (std::size_t at = 0; at < f.dim; at += 64) {
    const __m512i x = _mm512_shuffle_epi8(table, nibbles(row + at / 2, row_bytes - at / 2));
    _mm512_storeu_si512(levels + at, _mm512_maskz_mov_epi8(first(f.dim - at), x));
  }
}

VQ_DECODE_DOT_ONE(VQ_T)
VQ_DECODE_DOTS(VQ_T)
#endif
