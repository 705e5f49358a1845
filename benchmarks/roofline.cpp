// Times the scan's kernels and measures the processor's peaks: the compiled half of roofline.py.
//
//   roofline DIM...      prints one JSON object per line; times are medians, in nanoseconds, of one thread
//
// The names that it prints stay as they are in results/roofline.jsonl, whatever the kernels are called now.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <functional>
#include <vector>

#include "buffer.hpp"
#include "dispatch.hpp"
#include "kernels.hpp"

#ifdef VQ_X86
#include <immintrin.h>
#endif

using namespace vqindex;

namespace {

constexpr int kRuns = 15;
constexpr double kRunSeconds = 0.01;
volatile std::int64_t sink;

// Returns processor time, so that other programs count less.
double seconds() {
  timespec now;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
}

struct Spread {
  double median, least, most;
};

// Returns the nanoseconds of one call.
Spread time_of(const std::function<void()>& call) {
  std::size_t calls = 1;
  for (;; calls *= 2) {
    const double begin = seconds();
    for (std::size_t i = 0; i < calls; ++i) call();
    if (seconds() - begin > kRunSeconds) break;
  }
  std::vector<double> times;
  for (int run = 0; run < kRuns; ++run) {
    const double begin = seconds();
    for (std::size_t i = 0; i < calls; ++i) call();
    times.push_back((seconds() - begin) / static_cast<double>(calls) * 1e9);
  }
  std::sort(times.begin(), times.end());
  return {times[kRuns / 2], times.front(), times.back()};
}

void print(const char* kind, const char* name, std::size_t dim, const Spread& ns) {
  std::printf("{\"%s\": \"%s\", \"dim\": %zu, \"ns\": %.4f, \"min\": %.4f, \"max\": %.4f}\n", kind, name, dim,
              ns.median, ns.least, ns.most);
  std::fflush(stdout);
}

template <typename T>
Buffer<T> random_buffer(std::size_t size, int low, int high) {
  std::uint64_t state = 1;
  const std::uint64_t values = static_cast<std::uint64_t>(high - low + 1);
  Buffer<T> out;
  out.resize(size);
  for (std::size_t i = 0; i < size; ++i) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    out.data()[i] = static_cast<T>(low + static_cast<int>((state >> 33) % values));
  }
  return out;
}

#ifdef VQ_X86
// ---- what the processor can do

// A chain of additions. Each waits for the one before it, so each takes a cycle.
void chain() {
  std::uint64_t x = 1;
  for (int i = 0; i < 1000; ++i)
    asm volatile(
        "add $1, %0\n add $1, %0\n add $1, %0\n add $1, %0\n add $1, %0\n"
        "add $1, %0\n add $1, %0\n add $1, %0\n add $1, %0\n add $1, %0\n"
        : "+r"(x));
  sink = static_cast<std::int64_t>(x);
}

#define VQ_WIDEST __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512vbmi" VQ_WIDE)))

VQ_WIDEST void many_dots() {
  __m512i sum[12], a = _mm512_set1_epi8(3), b = _mm512_set1_epi8(5);
  VQ_UNROLL
  for (int i = 0; i < 12; ++i) sum[i] = _mm512_set1_epi8(static_cast<char>(i));
  VQ_UNROLL
  for (int i = 0; i < 12; ++i) asm volatile("" : "+v"(sum[i]));  // or equal ones would be computed once
  for (int round = 0; round < 1000; ++round) {
    VQ_UNROLL
    for (int i = 0; i < 12; ++i) sum[i] = _mm512_dpbusd_epi32(sum[i], a, b);
    asm volatile("" : "+v"(a), "+v"(b));
  }
  __m512i all = sum[0];
  VQ_UNROLL
  for (int i = 1; i < 12; ++i) all = _mm512_add_epi32(all, sum[i]);
  sink = _mm512_reduce_add_epi32(all);
}

VQ_WIDEST void many_permutes() {
  __m512i x[12], index = _mm512_set1_epi8(7);
  VQ_UNROLL
  for (int i = 0; i < 12; ++i) x[i] = _mm512_set1_epi8(static_cast<char>(i));
  VQ_UNROLL
  for (int i = 0; i < 12; ++i) asm volatile("" : "+v"(x[i]));
  for (int round = 0; round < 1000; ++round) {
    VQ_UNROLL
    for (int i = 0; i < 12; ++i) x[i] = _mm512_permutexvar_epi8(index, x[i]);
    asm volatile("" : "+v"(index));
  }
  __m512i all = x[0];
  VQ_UNROLL
  for (int i = 1; i < 12; ++i) all = _mm512_add_epi32(all, x[i]);
  sink = _mm512_reduce_add_epi32(all);
}

VQ_WIDEST void many_additions() {
  __m512 x[12], one = _mm512_set1_ps(1);
  VQ_UNROLL
  for (int i = 0; i < 12; ++i) x[i] = _mm512_setzero_ps();
  VQ_UNROLL
  for (int i = 0; i < 12; ++i) asm volatile("" : "+v"(x[i]));  // or equal ones would be computed once
  for (int round = 0; round < 1000; ++round) {
    VQ_UNROLL
    for (int i = 0; i < 12; ++i) x[i] = _mm512_add_ps(x[i], one);
    asm volatile("" : "+v"(one));
  }
  __m512 all = x[0];
  VQ_UNROLL
  for (int i = 1; i < 12; ++i) all = _mm512_add_ps(all, x[i]);
  sink = static_cast<std::int64_t>(_mm512_reduce_add_ps(all));
}

template <std::size_t AHEAD>
VQ_WIDEST void read(const std::uint8_t* from, std::size_t bytes) {
  __m512i a = _mm512_setzero_si512(), b = a, c = a, d = a;
  for (std::size_t at = 0; at < bytes; at += 256) {
    if (AHEAD)
      for (std::size_t line = 0; line < 256; line += 64) prefetch(from + at + line + AHEAD);
    a = _mm512_or_si512(a, _mm512_loadu_si512(from + at));
    b = _mm512_or_si512(b, _mm512_loadu_si512(from + at + 64));
    c = _mm512_or_si512(c, _mm512_loadu_si512(from + at + 128));
    d = _mm512_or_si512(d, _mm512_loadu_si512(from + at + 192));
  }
  sink = _mm512_reduce_or_epi64(_mm512_or_si512(_mm512_or_si512(a, b), _mm512_or_si512(c, d)));
}

void peaks(const Buffer<std::uint8_t>& memory, std::size_t bytes) {
  print("peak", "cycles", 10'000, time_of(chain));
  print("peak", "dots", 12'000, time_of(many_dots));
  print("peak", "permutes", 12'000, time_of(many_permutes));
  print("peak", "additions", 12'000 * 16, time_of(many_additions));
  print("peak", "bytes in cache", std::size_t{1} << 18, time_of([&] { read<0>(memory.data(), std::size_t{1} << 18); }));
  print("peak", "bytes", bytes, time_of([&] { read<1 << 14>(memory.data(), bytes); }));
}
#endif

// ---- kernels

struct Layout {
  const char* name;
  int step, window, tops;
};
constexpr Layout kLayouts[] = {
    {"turboquant-prod 2", 1, 1, 1}, {"turboquant-prod 4", 3, 3, 1}, {"trellis 2", 1, 4, 4}, {"trellis 4", 3, 6, 2}};

void kernels(const Kernels& k, std::size_t dim, const Buffer<std::uint8_t>& memory, std::size_t bytes) {
  const std::size_t stride = padded(dim, 64), sign_bytes = (dim + 7) / 8,
                    units = padded(sign_bytes, kUnitBytes) / kUnitBytes;
  constexpr std::size_t kMany = 16;  // queries that take turns, as in a search
  std::size_t turn = 0;
  const auto next = [&turn] { return turn = (turn + 1) % kMany; };

  const auto levels = random_buffer<std::int8_t>(kDotTileRows * stride, -127, 127);
  const auto queries = random_buffer<std::int8_t>(kDotTileQueries * kMany * stride, -64, 64);
  const auto code_query = random_buffer<std::int16_t>(stride, -32767, 32767);
  Buffer<std::uint8_t> tile, index, tables;
  Buffer<std::int32_t> sums;
  Buffer<std::uint16_t> sums16;
  Buffer<std::int8_t> room;
  tile.resize(kDotTileRows * stride);
  sums.resize(kDotTileQueries * kDotTileRows);
  room.resize(stride);
  print("kernel", "arrange", dim, time_of([&] { k.arrange_tile_s8(levels.data(), stride, tile.data()); }));
  print("kernel", "tile_sums", dim, time_of([&] {
          k.dot_tile_s8s8(tile.data(), stride, padded(dim, 4), queries.data() + next() * kDotTileQueries * stride,
                          kDotTileQueries, sums.data());
        }));

  const auto small = random_buffer<std::int8_t>(kMany * units * 24, -kSignLimit, kSignLimit);
  tables.resize(kMany * units * kUnitTable);
  for (std::size_t q = 0; q < kMany; ++q)
    k.sign_tables_s8u8(small.data() + q * units * 24, units, tables.data() + q * units * kUnitTable);
  index.resize(kGroupBlocks * units * kUnitIndex);
  sums16.resize(kSignTileQueries * kGroupBlocks * kBlockRows);
  print("kernel", "sign_tables", dim, time_of([&] { k.sign_tables_s8u8(small.data(), units, tables.data()); }));
  print("kernel", "sign_expand", dim,
        time_of([&] { k.sign_expand_u8(memory.data(), sign_bytes, kGroupBlocks, index.data()); }));
  print("kernel", "sign_tile", dim, time_of([&] {
          const std::size_t first = next() / kSignTileQueries * kSignTileQueries;
          for (std::size_t u = 0; u < units; u += k.call_units)
            k.sign_tile_u8u16(
                index.data() + u * kGroupBlocks * kUnitIndex, tables.data() + (first * units + u) * kUnitTable,
                {std::min(units - u, k.call_units), kGroupBlocks, kSignTileQueries, units * kUnitTable, 7, u > 0},
                sums16.data());
        }));
  std::uint64_t masks[kGroupBlocks];
  print("kernel", "above", dim, time_of([&] { sink = k.mask_gt_u16(sums16.data(), kGroupBlocks, 60'000, masks); }));
  constexpr std::size_t kCandidates = 4096;  // of a group of blocks
  const auto group = random_buffer<std::int8_t>(kGroupBlocks * kBlockRows * stride, -127, 127);
  const auto places = random_buffer<std::uint8_t>(kCandidates, 0, 255);
  std::vector<std::uint16_t> which(kCandidates);
  std::vector<std::uint32_t> survivors(kCandidates + 3);
  for (std::size_t i = 0; i < kCandidates; ++i)
    which[i] = static_cast<std::uint16_t>(i * kDotTileQueries * kMany / kCandidates);
  const std::vector<std::int32_t> limits(kDotTileQueries * kMany, std::int32_t{1} << 30);
  sums.resize(kCandidates + 3);
  const Candidates candidates{kCandidates, places.data(), which.data()};
  print("kernel", "row_sums", dim, time_of([&] {
          sink = static_cast<std::int64_t>(k.dot_rows_s8s8(group.data(), stride, candidates, queries.data(),
                                                           limits.data(), survivors.data(), sums.data()));
        }));
  const std::size_t whole =
      bytes / (sign_bytes * kBlockRows * kGroupBlocks);  // calls that go through all of the memory
  print("kernel", "sign_plane", dim, time_of([&] {
          for (std::size_t i = 0; i < whole; ++i)
            k.sign_blocks_u8u16(memory.data() + i * sign_bytes * kBlockRows * kGroupBlocks, sign_bytes, kGroupBlocks,
                                tables.data(), 7, sums16.data());
        }));

  for (const Layout& layout : kLayouts) {
    std::vector<std::int8_t> table;
    for (int i = 0; i < 1 << (layout.window + layout.tops); ++i)
      table.push_back(static_cast<std::int8_t>(37 * i % 255 - 127));
    const FieldTables fields(dim, layout.step, layout.window, layout.tops, table);
    const std::size_t row =
        ((dim - 1) * static_cast<std::size_t>(layout.step) + static_cast<std::size_t>(layout.window) + 7) / 8;
    std::size_t at = 0;
    char name[64];
    constexpr std::size_t kRows = 16;  // in the cache
    const std::uint8_t* codes[kRows];
    std::int64_t dots[kRows];
    for (std::size_t i = 0; i < kRows; ++i) codes[i] = memory.data() + i * row;
    std::snprintf(name, sizeof name, "row_dots %s", layout.name);
    print("kernel", name, dim, time_of([&] {
            k.decode_dot_s8s16(fields.fields(), codes, row, memory.data(), kRows, code_query.data(), room.data(), dots);
            sink = dots[0];
          }));
    std::snprintf(name, sizeof name, "decode %s", layout.name);
    print("kernel", name, dim, time_of([&] {
            at = (at + 1) % 512;
            k.decode_s8(fields.fields(), memory.data() + at * row, row, memory.data() + at * 64, room.data());
          }));
  }
}

}  // namespace

int main(int count, char** arguments) {
  const std::string isa = supported_isas().back();
  std::printf("{\"isa\": \"%s\"}\n", isa.c_str());
  const std::size_t bytes = std::size_t{1} << 28;
  const auto memory = random_buffer<std::uint8_t>(bytes, 0, 255);
#ifdef VQ_X86
  if (isa == "avx512vbmi") peaks(memory, bytes);
#endif
  for (int i = 1; i < count; ++i)
    kernels(kernels_for(isa), static_cast<std::size_t>(std::atoi(arguments[i])), memory, bytes);
}
