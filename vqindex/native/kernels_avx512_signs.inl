// The kernels over sign bits: a part of kernels_avx512.inl, included inside its namespaces.

// ---- sums of bytes: two registers of 16-bit lanes, one for even and one for odd bytes

template <std::size_t B>
struct Wide {
  __m512i low[B], high[B];  // low: even byte + 256 * odd byte, modulo 2^16; high: odd byte

  VQ_T VQ_INLINE void clear() {
    VQ_UNROLL
    for (std::size_t b = 0; b < B; ++b) low[b] = high[b] = _mm512_setzero_si512();
  }
  VQ_T VQ_INLINE void add(std::size_t b, __m512i bytes) {
    low[b] = _mm512_add_epi16(low[b], bytes);
    high[b] = _mm512_add_epi16(high[b], _mm512_srli_epi16(bytes, 8));
  }
  VQ_T VQ_INLINE void store(std::uint16_t* sums, bool more = false) const {
    const __m512i first = _mm512_setr_epi64(0, 1, 8, 9, 2, 3, 10, 11);
    const __m512i second = _mm512_setr_epi64(4, 5, 12, 13, 6, 7, 14, 15);
    VQ_UNROLL
    for (std::size_t b = 0; b < B; ++b) {
      const __m512i even = _mm512_sub_epi16(low[b], _mm512_slli_epi16(high[b], 8));
      const __m512i x = _mm512_unpacklo_epi16(even, high[b]), y = _mm512_unpackhi_epi16(even, high[b]);
      __m512i a = _mm512_permutex2var_epi64(x, first, y), c = _mm512_permutex2var_epi64(x, second, y);
      if (more) {
        a = _mm512_add_epi16(a, _mm512_loadu_si512(sums + 64 * b));
        c = _mm512_add_epi16(c, _mm512_loadu_si512(sums + 64 * b + 32));
      }
      _mm512_storeu_si512(sums + 64 * b, a);
      _mm512_storeu_si512(sums + 64 * b + 32, c);
    }
  }
};

#ifdef VQ_VBMI
constexpr int kUnitTables = 4;  // of six coordinates, in a unit of 24

VQ_T void sign_tables_s8u8(const std::int8_t* query, std::size_t units, std::uint8_t* tables) {
  const __m512i index = numbers();
  __mmask64 set[6];
  VQ_UNROLL
  for (int j = 0; j < 6; ++j) set[j] = _mm512_test_epi8_mask(index, _mm512_set1_epi8(static_cast<char>(1 << j)));
  const auto add = [&](__m512i sum, int j, std::int8_t x) VQ_T {
    const __mmask64 agree = x < 0 ? ~set[j] : set[j];
    return _mm512_mask_add_epi8(sum, agree, sum, _mm512_set1_epi8(static_cast<char>(std::abs(x))));
  };
  for (std::size_t u = 0; u < units; ++u, query += 24) {
    __m512i last = _mm512_setzero_si512();
    VQ_UNROLL
    for (int g = 0; g < 3; ++g, tables += 64) {
      __m512i sum = _mm512_setzero_si512();
      VQ_UNROLL
      for (int j = 0; j < 6; ++j) sum = add(sum, j, query[8 * g + j]);
      _mm512_storeu_si512(tables, sum);
      VQ_UNROLL
      for (int j = 0; j < 2; ++j) last = add(last, 2 * g + j, query[8 * g + 6 + j]);
    }
    _mm512_storeu_si512(tables, last);
    tables += 64;
  }
}

// Makes four look-up indices from three bytes of sign bits. vpermb ignores the top two bits of an index byte, so the
// three bytes are indices as they are. Their top two bits together make the fourth index.
VQ_T VQ_INLINE void indices(__m512i a, __m512i b, __m512i c, __m512i (&index)[kUnitTables]) {
  index[0] = a;
  index[1] = b;
  index[2] = c;
  const __m512i ab =
      _mm512_ternarylogic_epi64(_mm512_set1_epi8(3), _mm512_srli_epi16(a, 6), _mm512_srli_epi16(b, 4), 0xCA);
  index[3] = _mm512_ternarylogic_epi64(_mm512_set1_epi8(15), ab, _mm512_srli_epi16(c, 2), 0xCA);
}

VQ_T VQ_INLINE __m512i table_of(const std::uint8_t* tables, int g) { return _mm512_loadu_si512(tables + 64 * g); }
VQ_T VQ_INLINE __m512i look_up(__m512i index, __m512i table) { return _mm512_permutexvar_epi8(index, table); }
#else
constexpr int kUnitTables = 6;  // of four coordinates, in a unit of 24

VQ_T void sign_tables_s8u8(const std::int8_t* query, std::size_t units, std::uint8_t* tables) {
  plain::sign_tables_s8u8(query, units, tables);
}

// Makes six look-up indices of four bits from three bytes of sign bits.
VQ_T VQ_INLINE void indices(__m512i a, __m512i b, __m512i c, __m512i (&index)[kUnitTables]) {
  const __m512i bytes[kUnitBytes] = {a, b, c}, low4 = _mm512_set1_epi8(15);
  VQ_UNROLL
  for (int i = 0; i < 3; ++i) {
    index[2 * i] = _mm512_and_si512(bytes[i], low4);
    index[2 * i + 1] = _mm512_and_si512(_mm512_srli_epi16(bytes[i], 4), low4);
  }
}

VQ_T VQ_INLINE __m512i table_of(const std::uint8_t* tables, int g) {
  return _mm512_broadcast_i32x4(_mm_loadu_si128(reinterpret_cast<const __m128i*>(tables) + g));
}
VQ_T VQ_INLINE __m512i look_up(__m512i index, __m512i table) { return _mm512_shuffle_epi8(table, index); }
#endif

// Bytes to prefetch ahead: memory answers in the time that they take, and the first-level cache has room for them.
constexpr std::size_t kFetchAhead = 3 << 12;

// Loads three bytes of sign bits of each of 64 rows, and prefetches those that come kFetchAhead bytes later.
VQ_T VQ_INLINE void load_unit(const std::uint8_t* block, std::size_t bytes, std::size_t j, __m512i (&x)[kUnitBytes]) {
  VQ_UNROLL
  for (std::size_t i = 0; i < kUnitBytes; ++i) {
    prefetch(block + (j + i) * kBlockRows + kFetchAhead);
    x[i] = j + i < bytes ? _mm512_loadu_si512(block + (j + i) * kBlockRows) : _mm512_setzero_si512();
  }
}

// Sums one block after the other. Several at once would share the loads of tables, but the hardware prefetcher follows
// one stream best.
VQ_T void sign_blocks_u8u16(const std::uint8_t* signs, std::size_t bytes, std::size_t blocks,
                            const std::uint8_t* tables, std::size_t units_per_byte_sum, std::uint16_t* sums) {
  for (const std::uint8_t* const end = signs + blocks * bytes * kBlockRows; signs != end;
       signs += bytes * kBlockRows, sums += kBlockRows) {
    Wide<1> wide;
    wide.clear();
    const std::uint8_t* table = tables;
    for (std::size_t j = 0; j < bytes;) {
      __m512i sum = _mm512_setzero_si512();
      for (const std::size_t stop = std::min(bytes, j + units_per_byte_sum * kUnitBytes); j < stop;
           j += kUnitBytes, table += kUnitTable) {
        __m512i x[kUnitBytes], index[kUnitTables];
        load_unit(signs, bytes, j, x);
        indices(x[0], x[1], x[2], index);
        VQ_UNROLL
        for (int g = 0; g < kUnitTables; ++g) index[g] = look_up(index[g], table_of(table, g));
        // Adds in pairs: the chain of additions that wait for each other is shorter.
        VQ_UNROLL
        for (int g = 0; g < kUnitTables; g += 2) index[g / 2] = _mm512_add_epi8(index[g], index[g + 1]);
        VQ_UNROLL
        for (int g = 1; g < kUnitTables / 2; ++g) index[0] = _mm512_add_epi8(index[0], index[g]);
        sum = _mm512_add_epi8(sum, index[0]);
      }
      wide.add(0, sum);
    }
    wide.store(sums);
  }
}

#ifdef VQ_VBMI
// Order of the indices: [unit][table of the unit][block][row].
VQ_T void sign_expand_u8(const std::uint8_t* signs, std::size_t bytes, std::size_t blocks, std::uint8_t* index) {
  for (std::size_t j = 0; j < bytes; j += kUnitBytes, index += kUnitIndex * blocks)
    for (std::size_t b = 0; b < blocks; ++b) {
      __m512i x[kUnitBytes], i[kUnitTables];
      load_unit(signs + b * bytes * kBlockRows, bytes, j, x);
      indices(x[0], x[1], x[2], i);
      VQ_UNROLL
      for (std::size_t g = 0; g < kUnitTables; ++g) _mm512_storeu_si512(index + (g * blocks + b) * 64, i[g]);
    }
}

// Loads into a register and keeps it there. Compilers would rather load again for each use, and loads are the scarcest
// resource of this kernel.
VQ_T VQ_INLINE __m512i loaded(const std::uint8_t* from) {
  __m512i x = _mm512_loadu_si512(from);
  asm("" : "+v"(x));
  return x;
}

constexpr std::size_t kTablesAhead = 512;  // bytes to prefetch ahead: tables come from the second-level cache

// Sums Q queries over B blocks. Each index is used for Q tables and each table for B indices, and all sums stay in
// registers.
template <std::size_t Q, std::size_t B>
VQ_T VQ_INLINE void tile_signs(const std::uint8_t* index, const std::uint8_t* tables, const SignCall& call,
                               std::uint16_t* sums) {
  Wide<B> wide[Q];
  VQ_UNROLL
  for (std::size_t q = 0; q < Q; ++q) wide[q].clear();
  for (std::size_t u = 0; u < call.units;) {
    __m512i sum[Q][B];
    VQ_UNROLL
    for (std::size_t q = 0; q < Q; ++q) VQ_UNROLL
    for (std::size_t b = 0; b < B; ++b) sum[q][b] = _mm512_setzero_si512();
    for (const std::size_t end = std::min(call.units, u + call.units_per_byte_sum); u < end; ++u) {
      VQ_UNROLL
      for (int g = 0; g < kUnitTables; ++g, tables += 64, index += 64 * call.blocks) {
        __m512i table[Q];
        VQ_UNROLL
        for (std::size_t q = 0; q < Q; ++q) {
          table[q] = loaded(tables + q * call.table_stride);
          prefetch(tables + q * call.table_stride + kTablesAhead);
        }
        VQ_UNROLL
        for (std::size_t b = 0; b < B; ++b) {
          const __m512i at = loaded(index + 64 * b);
          VQ_UNROLL
          for (std::size_t q = 0; q < Q; ++q) {
            sum[q][b] = _mm512_add_epi8(sum[q][b], look_up(at, table[q]));
            asm("" : "+v"(sum[q][b]));  // keeps the additions in sequence: a tree of them would spill registers
          }
        }
      }
    }
    VQ_UNROLL
    for (std::size_t q = 0; q < Q; ++q) VQ_UNROLL
    for (std::size_t b = 0; b < B; ++b) wide[q].add(b, sum[q][b]);
  }
  VQ_UNROLL
  for (std::size_t q = 0; q < Q; ++q) wide[q].store(sums + q * call.blocks * kBlockRows, call.accumulate);
}

template <std::size_t Q>
VQ_T VQ_INLINE void tile_signs_of(const std::uint8_t* index, const std::uint8_t* tables, const SignCall& call,
                                  std::uint16_t* sums) {
  std::size_t b = 0;
  for (; b + kGroupBlocks <= call.blocks; b += kGroupBlocks)
    tile_signs<Q, kGroupBlocks>(index + 64 * b, tables, call, sums + b * kBlockRows);
  for (; b < call.blocks; ++b) tile_signs<Q, 1>(index + 64 * b, tables, call, sums + b * kBlockRows);
}

VQ_T void sign_tile_u8u16(const std::uint8_t* index, const std::uint8_t* tables, const SignCall& call,
                          std::uint16_t* sums) {
  std::size_t q = 0;
  for (; q + 2 <= call.queries; q += 2)
    tile_signs_of<2>(index, tables + q * call.table_stride, call, sums + q * call.blocks * kBlockRows);
  for (; q < call.queries; ++q)
    tile_signs_of<1>(index, tables + q * call.table_stride, call, sums + q * call.blocks * kBlockRows);
}

constexpr std::size_t kCallUnits = 32;  // their indices for a group of blocks take 32 KiB
constexpr std::size_t kFewQueries = 4;  // not measured: the tile kernel is faster here than the one for blocks
#else
VQ_SIGN_BLOCKS_AS_TILE(VQ_T)
#endif

// ---- rows of sign bits

// Transposes eight bytes of 64 rows into 64 words: in pairs, fours, then eights, all within 128-bit lanes.
VQ_T VQ_INLINE void transpose_words(const __m512i (&column)[8], std::uint64_t* words) {
  __m512i a[8], b[8];
  VQ_UNROLL
  for (int i = 0; i < 8; i += 2) {
    a[i] = _mm512_unpacklo_epi8(column[i], column[i + 1]);
    a[i + 1] = _mm512_unpackhi_epi8(column[i], column[i + 1]);
  }
  VQ_UNROLL
  for (int i = 0; i < 8; i += 4) VQ_UNROLL
  for (int half = 0; half < 2; ++half) {
    b[i + 2 * half] = _mm512_unpacklo_epi16(a[i + half], a[i + 2 + half]);
    b[i + 2 * half + 1] = _mm512_unpackhi_epi16(a[i + half], a[i + 2 + half]);
  }
  VQ_UNROLL
  for (int i = 0; i < 4; ++i) {
    _mm512_store_si512(words + 16 * i, _mm512_unpacklo_epi32(b[i], b[i + 4]));
    _mm512_store_si512(words + 16 * i + 8, _mm512_unpackhi_epi32(b[i], b[i + 4]));
  }
}

// Returns where transpose_words leaves row r: register i has rows 2 i and 2 i + 1 of every 16 rows.
VQ_INLINE std::size_t word_of(std::size_t r) { return (r >> 1 & 7) * 8 + (r >> 4) * 2 + (r & 1); }

constexpr int kTransposeRows = 3;  // with so many rows of a block, transposing all of it is less work than picking them

VQ_T void sign_rows_u8(const std::uint8_t* block, std::size_t bytes, std::uint64_t mask, std::uint8_t* rows,
                       std::size_t stride) {
  if (static_cast<int>(count_bits(mask)) < kTransposeRows) return plain::sign_rows_u8(block, bytes, mask, rows, stride);
  alignas(64) std::uint64_t words[kBlockRows];
  for (std::size_t j = 0; j < bytes; j += 8) {
    __m512i column[8];
    VQ_UNROLL
    for (std::size_t i = 0; i < 8; ++i)
      column[i] = j + i < bytes ? _mm512_loadu_si512(block + (j + i) * kBlockRows) : _mm512_setzero_si512();
    transpose_words(column, words);
    std::uint8_t* row = rows + j;
    for (std::uint64_t bits = mask; bits; bits &= bits - 1, row += stride)
      std::memcpy(row, words + word_of(lowest_bit(bits)), 8);
  }
}
