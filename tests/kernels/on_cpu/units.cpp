// SPDX-License-Identifier: Apache-2.0
// Hopper's units for fibers: tensor copies, barriers that count bytes, named barriers, and matrix products that read
// their operands from shared memory by descriptors. Errors that a GPU would answer with a hang or with wrong results
// end the process with a message.
//
// In order 0, copies and products take effect as late as possible: a copy when no thread can run without it, a product
// when its threads wait for it. In order 1, both take effect at once. In other orders, the last copy comes first. Above
// order 100, copies take effect at once, and products late.
// Matrix products read a copy of shared memory that is updated by fences.
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <map>
#include <utility>
#include <vector>

#include "emulated_units.h"
#include "fibers.h"

namespace on_cpu {
namespace {

constexpr int kMagic = 0x5A5;  // of a barrier that has been started

struct BarrierState {
  uint64_t magic : 12, parity : 1, count : 12, pending : 12;
  int64_t bytes : 27;  // that the current phase still expects
};
static_assert(sizeof(BarrierState) == 8);

struct Copy {
  unsigned char* to;
  CUtensorMap map;
  uint64_t* barrier;
  int at[3];
};

struct Meeting {
  int arrived = 0, any = 0, result = 0, number = 0;
};

struct ThreadProducts {
  std::vector<Product> started, ended;
  bool begun = false;
  size_t issued = 0;
};

std::deque<Copy> copies;
std::map<int, Meeting> meetings;                                        // by id
std::map<unsigned, ThreadProducts> products;                            // by thread
std::map<unsigned, std::vector<std::pair<uint64_t, uint64_t>>> issued;  // by warp group: operands of its products
std::vector<unsigned char> visible;                                     // shared memory as products see it
bool fenced = false;
int boxes = 0;

[[noreturn]] void fail(const char* message) {
  std::fprintf(stderr, "thread %u: %s\n", threadIdx.x, message);
  std::abort();
}

BarrierState load_state(const uint64_t& barrier) {
  const auto state = __builtin_bit_cast(BarrierState, barrier);
  if (state.magic != kMagic) fail("uses a barrier that has not been started");
  return state;
}

void store_state(uint64_t& barrier, BarrierState state) {
  if (state.pending == 0 && state.bytes == 0) state.parity ^= 1, state.pending = state.count;
  barrier = __builtin_bit_cast(uint64_t, state);
}

size_t swizzled(size_t address, int width) { return address ^ (address >> 7 & (width == 128 ? 7u : 3u)) << 4; }

void deliver(const Copy& copy) {
  const CUtensorMap& map = copy.map;
  const auto begin = static_cast<size_t>(copy.to - shared_begin());
  if (begin % 128 != 0) fail("copies a box to an address that is not a multiple of 128");
  size_t bytes = 0;
  for (uint32_t y = 0; y < map.box[1]; ++y) {
    for (uint32_t x = 0; x < map.box[0]; ++x, bytes += 2) {
      const uint64_t at[3] = {copy.at[0] + uint64_t{x}, copy.at[1] + uint64_t{y}, uint64_t(copy.at[2])};
      uint16_t value = 0;
      if (at[0] < map.sizes[0] && at[1] < map.sizes[1] && at[2] < map.sizes[2]) {
        std::memcpy(&value, map.data + at[0] * 2 + at[1] * map.strides[1] + at[2] * map.strides[2], 2);
      }
      const size_t to = swizzled(begin + bytes, map.swizzle == CU_TENSOR_MAP_SWIZZLE_128B ? 128 : 0);
      std::memcpy(shared_begin() + to, &value, 2);
      std::memcpy(visible.data() + to, &value, 2);
    }
  }
  BarrierState state = load_state(*copy.barrier);
  state.bytes -= static_cast<int64_t>(bytes);
  store_state(*copy.barrier, state);
  ++boxes;
}

// The element (i, k) of an operand, where i counts rows of A or columns of B.
float element(uint64_t descriptor, bool transposed, bool is_half, int i, int k) {
  const int mode = static_cast<int>(descriptor >> 62), width = mode == 1 ? 128 : mode == 2 ? 64 : 0;
  if (width == 0 || (descriptor >> 49 & 7) != 0) fail("uses a descriptor that is not emulated");
  const auto field = [&](int shift) { return static_cast<size_t>(descriptor >> shift & 0x3FFF) << 4; };
  const size_t begin = field(0), leading = field(16), stride = field(32);
  const int row = transposed ? k : i, column = (transposed ? i : k) * 2;
  const auto rows = static_cast<size_t>(row / 8) * stride + static_cast<size_t>(row % 8 * width);
  const auto columns = static_cast<size_t>(column / width) * leading + static_cast<size_t>(column % width);
  const size_t address = swizzled(begin + rows + columns, width);
  if (address + 2 > visible.size()) fail("reads an operand outside shared memory");
  uint16_t bits;
  std::memcpy(&bits, visible.data() + address, 2);
  if (is_half) return static_cast<float>(__builtin_bit_cast(_Float16, bits));
  return __builtin_bit_cast(float, static_cast<uint32_t>(bits) << 16);
}

void compute(const Product& product) {
  constexpr int kDepth = 16;
  if (std::exchange(fenced, false)) std::memcpy(visible.data(), shared_begin(), visible.size());
  const int lane = static_cast<int>(threadIdx.x % 32), row = static_cast<int>(threadIdx.x % 128 / 32) * 16 + lane / 4;
  double a[2][kDepth], b[kDepth];
  for (int r = 0; r < 2; ++r) {
    for (int k = 0; k < kDepth; ++k) {
      a[r][k] = element(product.a, product.transpose_a, product.is_half, row + 8 * r, k);
    }
  }
  for (int i = 0; i < product.size; i += i % 4 == 1 ? 3 : 1) {
    const int column = i / 4 * 8 + lane % 4 * 2 + i % 2;
    for (int k = 0; k < kDepth; ++k) b[k] = element(product.b, product.transpose_b, product.is_half, column, k);
    for (int r = 0; r < 2; ++r) {
      float& sum = product.sum[i + 2 * r];
      double total = product.accumulate ? static_cast<double>(sum) : 0;
      for (int k = 0; k < kDepth; ++k) total += a[r][k] * b[k];
      sum = truncated(total);
    }
  }
}

}  // namespace

void barrier_start(uint64_t& barrier, uint32_t count) {
  barrier = __builtin_bit_cast(uint64_t, BarrierState{kMagic, 0, count, count, 0});
}

void barrier_arrive(uint64_t& barrier, int64_t bytes) {
  BarrierState state = load_state(barrier);
  if (state.pending == 0) fail("arrives at a barrier at which all threads have arrived");
  state.bytes += bytes;
  --state.pending;
  store_state(barrier, state);
}

void barrier_wait(const uint64_t& barrier, uint32_t parity, Place place) {
  if (skipped(place.file, place.line)) return;
  wait_until([&] { return load_state(barrier).parity != parity; }, place.line);
}

void fence(Place place) {
  if (!skipped(place.file, place.line)) fenced = true;
}

bool meet(int id, int threads, bool condition, Place place) {
  if (skipped(place.file, place.line)) return condition;
  Meeting& meeting = meetings[id];
  meeting.any |= condition;
  if (++meeting.arrived == threads) {
    meeting.result = std::exchange(meeting.any, 0);
    meeting.arrived = 0;
    ++meeting.number;
    return meeting.result != 0;
  }
  const int number = meeting.number;
  wait_until([&meeting, number] { return meeting.number != number; }, place.line);
  return meeting.result != 0;
}

void load(unsigned char* to, const CUtensorMap& map, uint64_t& barrier, int x, int y, int z) {
  copies.push_back({to, map, &barrier, {x, y, z}});
  if (order() == 1 || order() > 100) advance_units();
}

void begin_products(Place place) {
  if (!skipped(place.file, place.line)) products[threadIdx.x].begun = true;
}

void multiply(const Product& product) {
  ThreadProducts& own = products[threadIdx.x];
  if (!own.begun) fail("multiplies without begin_products()");
  for (const auto* earlier : {&own.started, &own.ended}) {
    if (!earlier->empty() && earlier->back().sum != product.sum) fail("multiplies before it has waited for products");
  }
  auto& group = issued[threadIdx.x / 128];
  if (own.issued == group.size()) group.emplace_back(product.a, product.b);
  if (group[own.issued++] != std::pair(product.a, product.b)) fail("multiplies other operands than its warp group");
  if (order() == 1) return compute(product);
  if (!product.accumulate) std::fill_n(product.sum, product.size, NAN);
  own.started.push_back(product);
}

void end_products(Place place) {
  if (skipped(place.file, place.line)) return;
  ThreadProducts& own = products[threadIdx.x];
  own.ended.insert(own.ended.end(), own.started.begin(), own.started.end());
  own.started.clear();
}

void wait_for_products(Place place) {
  if (skipped(place.file, place.line)) return;
  ThreadProducts& own = products[threadIdx.x];
  for (const Product& product : std::exchange(own.ended, {})) compute(product);
  own.begun = false;
  meet_warp();  // the threads of a warp wait together
}

void start_units(size_t shared) {
  visible.assign(shared, 0xFF);
  copies.clear(), meetings.clear(), products.clear(), issued.clear();
  fenced = false;
}

bool advance_units() {
  if (copies.empty()) return false;
  const Copy copy = order() == 0 ? copies.front() : copies.back();
  order() == 0 ? copies.pop_front() : copies.pop_back();
  deliver(copy);
  return true;
}

void end_units() {
  if (!copies.empty()) fail("ends before a copy has been waited for");
  for (const auto& [thread, own] : products) {
    if (!own.started.empty() || !own.ended.empty()) fail("ends before its products have been waited for");
  }
}

}  // namespace on_cpu

CUresult cuTensorMapEncodeTiled(CUtensorMap* map, CUtensorMapDataType, cuuint32_t rank, void* data,
                                const cuuint64_t* sizes, const cuuint64_t* strides, const cuuint32_t* box,
                                const cuuint32_t* steps, CUtensorMapInterleave, CUtensorMapSwizzle swizzle,
                                CUtensorMapL2promotion, CUtensorMapFloatOOBfill) {
  bool valid = rank == 3 && reinterpret_cast<uintptr_t>(data) % 16 == 0 && box[0] * 2 == 128;
  *map = {static_cast<const unsigned char*>(data), {}, {2, 0, 0}, {}, swizzle};
  for (int i = 0; i < 3; ++i) {
    map->sizes[i] = sizes[i], map->box[i] = box[i];
    if (i > 0) map->strides[i] = strides[i - 1];
    valid &= sizes[i] > 0 && sizes[i] <= uint64_t{1} << 32 && box[i] > 0 && box[i] <= 256 && steps[i] == 1;
    valid &= i == 0 || (map->strides[i] % 16 == 0 && map->strides[i] < uint64_t{1} << 40);
  }
  return valid ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

// Returns the number of boxes that have been copied since the last call.
extern "C" __attribute__((visibility("default"))) int on_cpu_boxes() { return std::exchange(on_cpu::boxes, 0); }
