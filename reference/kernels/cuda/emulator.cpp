// The emulator of simt_host.h: a thread of a block is a context with a stack of its own; all run on one core, in turns.
#include <ucontext.h>

#include <algorithm>
#include <deque>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "warpgroup.h"

namespace xmsim::emulator {
namespace {

constexpr size_t kStackBytes = 256 << 10;
constexpr int kLanes = 32;
constexpr uint32_t kFirstAddress = 16;  // of shared memory: its start is aligned to no more than this
constexpr unsigned char kPoison = 0xff;  // NaN as a number, -1 as an index

enum class Wait { none, warp, group, reached, way, block, ended };

struct Copy {
  void* to;
  const void* from;
  size_t bytes;
};

// Products into the same sums. What they read is read when they start and again when they end: on a GPU it may be either.
struct Product {
  struct Part {
    std::function<void(float*)> multiply;
    std::vector<float> at_start;
  };
  float* sums;
  std::vector<float> result;
  std::vector<Part> parts;
  int group;
};

struct Thread {
  ucontext_t context;
  std::unique_ptr<unsigned char[]> stack{new unsigned char[kStackBytes]};
  dim3 place;
  Wait wait = Wait::none;
  const std::function<bool()>* reached;
  std::vector<Copy> open;
  std::deque<std::vector<Copy>> closed;
  std::vector<Copy> landed;  // and not shared
  std::vector<Product> products;
  int closed_products;
  bool ordered;
  bool waited;  // for the kernel before
  unsigned char slot[kSlotBytes];
};

struct Block {
  std::vector<Thread> threads;
  std::vector<unsigned char> shared, shared_of_products;
  Place place;
  Thread* running = nullptr;
  ucontext_t scheduler;
  const std::function<void()>* body = nullptr;
  bool early = false, kernel_before_ended = false;
};

thread_local Block* current = nullptr;
thread_local std::string why_stopped;
bool last_thread_first = false;
Copy written_before = {nullptr, nullptr, 0};  // by the kernel before an early launch, at its very end

void enter() {
  (*current->body)();
  current->running->wait = Wait::ended;  // copies nobody waited for are dropped, as on a GPU nobody may rely on them
  swapcontext(&current->running->context, &current->scheduler);
}

void wait(Wait kind) {
  Thread* own = current->running;
  own->wait = kind;
  swapcontext(&own->context, &current->scheduler);
}

void run_thread(Block& block, Thread& thread) {
  block.running = &thread;
  block.place.thread = thread.place;
  swapcontext(&block.scheduler, &thread.context);
}

// Threads of a block from one on.
struct Neighbours {
  Block& block;
  size_t first, count;

  Thread& at(size_t i) const { return block.threads[first + (last_thread_first ? count - 1 - i : i)]; }

  // The same in parts, in the order in which they are run.
  Neighbours part(size_t i, size_t size) const {
    const size_t parts = (count + size - 1) / size, own = last_thread_first ? parts - 1 - i : i;
    return {block, first + own * size, std::min(size, count - own * size)};
  }

  // Lets them go on if each waits like this.
  bool release(Wait kind) const {
    for (size_t i = 0; i < count; ++i) {
      if (at(i).wait != kind) return false;
    }
    for (size_t i = 0; i < count; ++i) at(i).wait = Wait::none;
    return true;
  }

  // Lets those go on who have reached what they wait for.
  bool release_reached() const {
    bool any = false;
    for (size_t i = 0; i < count; ++i) {
      if (at(i).wait != Wait::reached || !(*at(i).reached)()) continue;
      at(i).wait = Wait::none;
      any = true;
    }
    return any;
  }
};

// A warp, or a warpgroup, runs as far as it gets without other threads: what relies on others without waiting for them shows. If a lane lets
// others go first, its warp stands as it is until they have, and its warpgroup is left at once: true.
bool run_warp(const Neighbours& warp) {
  do {
    for (size_t i = 0; i < warp.count; ++i) {
      if (warp.at(i).wait == Wait::way) return false;
      if (warp.at(i).wait == Wait::none) run_thread(warp.block, warp.at(i));
      if (warp.at(i).wait == Wait::way) return true;
    }
  } while (warp.release(Wait::warp));
  return false;
}

bool run_group(const Neighbours& group) {
  do {
    for (size_t i = 0; i * kLanes < group.count; ++i) {
      if (run_warp(group.part(i, kLanes))) return true;
    }
  } while ((group.count == kGroupThreads && group.release(Wait::group)) || group.release_reached());
  return false;
}

// Lets those go on who have let others go first.
bool release_given_way(Block& block) {
  bool any = false;
  for (Thread& thread : block.threads) {
    if (thread.wait != Wait::way) continue;
    thread.wait = Wait::none;
    any = true;
  }
  return any;
}

// Lets the threads of a block go on that are left, if all of them wait for it.
bool release_block(Block& block) {
  bool waits = false;
  for (const Thread& thread : block.threads) {
    if (thread.wait != Wait::block && thread.wait != Wait::ended) return false;
    waits |= thread.wait == Wait::block;
  }
  for (Thread& thread : block.threads) {
    if (thread.wait == Wait::block) thread.wait = Wait::none;
  }
  return waits;
}

// Ends the kernel before, if it has not ended.
bool end_kernel_before(Block& block) {
  if (block.kernel_before_ended) return false;
  if (written_before.bytes) std::memcpy(written_before.to, written_before.from, written_before.bytes);
  return block.kernel_before_ended = true;
}

bool run_block(Block& block) {
  block.kernel_before_ended = !block.early;
  if (block.early && written_before.bytes) std::memset(written_before.to, kPoison, written_before.bytes);
  for (Thread& thread : block.threads) {
    thread.wait = Wait::none;
    thread.open.clear();
    thread.closed.clear();
    thread.landed.clear();
    thread.products.clear();
    thread.closed_products = 0;
    thread.ordered = false;
    thread.waited = !block.early;
    getcontext(&thread.context);
    thread.context.uc_stack.ss_sp = thread.stack.get();
    thread.context.uc_stack.ss_size = kStackBytes;
    thread.context.uc_link = nullptr;
    makecontext(&thread.context, enter, 0);
  }
  std::fill(block.shared.begin(), block.shared.end(), kPoison);
  block.shared_of_products = block.shared;
  const Neighbours all = {block, 0, block.threads.size()};
  bool left;
  do {
    left = false;
    for (size_t i = 0; i * kGroupThreads < all.count; ++i) left |= run_group(all.part(i, kGroupThreads));
  } while (left || all.release_reached() || release_given_way(block) || release_block(block) || end_kernel_before(block));
  for (const Thread& thread : block.threads) {
    if (thread.wait != Wait::ended || !thread.waited) return false;
  }
  return true;
}

// Who waits in vain in a block, for what.
std::string waiting(const Block& block) {
  static constexpr std::pair<Wait, const char*> kKinds[] = {{Wait::warp, "lanes of their warp"},
                                                            {Wait::group, "threads of their warpgroup"},
                                                            {Wait::reached, "a phase of a barrier to end"},
                                                            {Wait::block, "threads of their block"}};
  std::string text = "threads waited in vain:";
  for (const auto& [kind, name] : kKinds) {
    int count = 0, first = 0;
    for (size_t i = block.threads.size(); i-- > 0;) {
      if (block.threads[i].wait != kind) continue;
      ++count;
      first = static_cast<int>(i);
    }
    if (count) text += " " + std::to_string(count) + " (the first is " + std::to_string(first) + ") for " + name + ";";
  }
  if (text.back() != ';') return "a thread of an early launch ended without waiting for the kernel before";
  text.pop_back();
  return text;
}

// The same bytes as products see them.
unsigned char* seen_by_products(const void* place) {
  return current->shared_of_products.data() + (static_cast<const unsigned char*>(place) - current->shared.data());
}

}  // namespace

const Place& place() { return current->place; }
unsigned char* shared_memory() { return current->shared.data(); }
void wait_for_block() { wait(Wait::block); }
void wait_for_warp() { wait(Wait::warp); }
void wait_for_group() { wait(Wait::group); }
void give_way() {
  const auto& threads = current->threads;
  const auto goes_on = [](const Thread& thread) { return thread.wait == Wait::reached && (*thread.reached)(); };
  if (!last_thread_first || std::any_of(threads.begin(), threads.end(), goes_on)) wait(Wait::way);
}

void wait_until(const std::function<bool()>& reached) {
  if (reached()) return;  // threads run ahead of others as far as they can
  current->running->reached = &reached;
  wait(Wait::reached);
}

void wait_for_kernel_before() {
  current->running->waited = true;
  wait_until([block = current] { return block->kernel_before_ended; });
}

unsigned char* lane_slot(int lane) { return current->threads[current->place.thread.x / kLanes * kLanes + lane].slot; }

void copy_later(void* to, const void* from, size_t bytes) {
  std::memset(to, kPoison, bytes);  // nobody may still read there
  std::memset(seen_by_products(to), kPoison, bytes);
  current->running->open.push_back({to, from, bytes});
}

void close_copies() {
  current->running->closed.push_back(std::move(current->running->open));
  current->running->open.clear();
}

void finish_copies(int groups) {
  auto& closed = current->running->closed;
  while (static_cast<int>(closed.size()) > groups) {
    for (const Copy& copy : closed.front()) {
      if (copy.from) {
        std::memcpy(copy.to, copy.from, copy.bytes);
      } else {
        std::memset(copy.to, 0, copy.bytes);
      }
      current->running->landed.push_back(copy);
    }
    closed.pop_front();
  }
}

uint32_t shared_address(const void* place) {
  return static_cast<uint32_t>(static_cast<const unsigned char*>(place) - current->shared.data()) + kFirstAddress;
}

void share_copies() {
  for (const Copy& copy : current->running->landed) std::memcpy(seen_by_products(copy.to), copy.to, copy.bytes);
  current->running->landed.clear();
}

const unsigned char* bytes_of_products(uint32_t address) {
  const auto& bytes = current->shared_of_products;
  return address >= kFirstAddress && address - kFirstAddress + 2 <= bytes.size() ? &bytes[address - kFirstAddress] : nullptr;
}

void order_products() { current->running->ordered = true; }

void product_later(float* sums, int count, bool adds, std::function<void(float*)> multiply) {
  Thread& thread = *current->running;
  auto& products = thread.products;
  auto own = std::find_if(products.begin(), products.end(), [&](const Product& product) { return product.sums == sums; });
  if (own == products.end()) own = products.insert(own, {sums, std::vector<float>(sums, sums + count), {}, 0});
  std::vector<float> part(count);
  multiply(part.data());
  for (int i = 0; i < count; ++i) {
    own->result[i] = !thread.ordered ? std::nanf("") : adds ? own->result[i] + part[i] : part[i];
  }
  own->parts.push_back({std::move(multiply), std::move(part)});
  own->group = thread.closed_products;
  std::memset(sums, kPoison, count * sizeof(float));
}

void close_products() { ++current->running->closed_products; }

void finish_products(int groups) {
  Thread& thread = *current->running;
  thread.ordered = false;
  const auto runs = [&](const Product& product) { return product.group >= thread.closed_products - groups; };
  for (const Product& product : thread.products) {
    if (runs(product)) continue;
    const size_t count = product.result.size();
    std::memcpy(product.sums, product.result.data(), count * sizeof(float));
    for (const Product::Part& part : product.parts) {
      std::vector<float> again(count);
      part.multiply(again.data());
      const bool same = !std::memcmp(again.data(), part.at_start.data(), count * sizeof(float));
      if (!same) std::memset(product.sums, kPoison, count * sizeof(float));
    }
  }
  thread.products.erase(std::remove_if(thread.products.begin(), thread.products.end(), std::not_fn(runs)), thread.products.end());
}

const char* reason() { return why_stopped.c_str(); }

int run(dim3 blocks, int threads, size_t bytes_shared, const std::function<void()>& body, bool early) {
  Block block;
  block.early = early;
  block.threads = std::vector<Thread>(threads);
  block.shared.resize(bytes_shared + 16);
  block.place.threads = {static_cast<unsigned>(threads), 1, 1};
  block.place.blocks = blocks;
  block.body = &body;
  for (int i = 0; i < threads; ++i) block.threads[i].place = {static_cast<unsigned>(i), 0, 0};
  current = &block;
  bool done = true;
  for (unsigned z = 0; done && z < blocks.z; ++z) {
    for (unsigned y = 0; done && y < blocks.y; ++y) {
      for (unsigned x = 0; done && x < blocks.x; ++x) {
        block.place.block = {x, y, z};
        done = run_block(block);
        if (!done) why_stopped = waiting(block);
      }
    }
  }
  current = nullptr;
  return done ? 0 : 1;
}

}  // namespace xmsim::emulator

// Threads run in the order of their numbers, or against it: what is right does not depend on it. Who arrives at a barrier of phases is
// overtaken by all others in the first order, only by those who waited for that in the second, and so runs ahead where nobody has to wait.
XM_API void xm_emulate_last_thread_first(int reversed) { xmsim::emulator::last_thread_first = reversed != 0; }

// What the kernel before an early launch writes at its very end: `bytes` from `from` to `to`, where NaN is before; none: 0 bytes.
XM_API void xm_emulate_kernel_before(void* to, const void* from, size_t bytes) { xmsim::emulator::written_before = {to, from, bytes}; }

// What threads of the last launch that was stopped waited for.
XM_API const char* xm_emulated_reason() { return xmsim::emulator::reason(); }
