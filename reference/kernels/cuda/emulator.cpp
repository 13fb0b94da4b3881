// The emulator of simt_host.h: a thread of a block is a context with a stack of its own; all run on one core, in turns.
#include <ucontext.h>

#include <deque>
#include <memory>
#include <vector>

#include "simt.h"

namespace xmsim::emulator {
namespace {

constexpr size_t kStackBytes = 256 << 10;
constexpr int kLanes = 32;
constexpr unsigned char kPoison = 0xff;  // NaN as a number, -1 as an index

enum class Wait { none, warp, block, ended };

struct Copy {
  void* to;
  const void* from;
  size_t bytes;
};

struct Thread {
  ucontext_t context;
  std::unique_ptr<unsigned char[]> stack{new unsigned char[kStackBytes]};
  dim3 place;
  Wait wait = Wait::none;
  std::vector<Copy> open;
  std::deque<std::vector<Copy>> closed;
  unsigned char slot[kSlotBytes];
};

struct Block {
  std::vector<Thread> threads;
  std::vector<unsigned char> shared;
  Place place;
  Thread* running = nullptr;
  ucontext_t scheduler;
  const std::function<void()>* body = nullptr;
};

thread_local Block* current = nullptr;
bool last_thread_first = false;

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

// Lets those go on who all wait for each other; false if nobody can.
bool release(Block& block) {
  bool any = false;
  const int warps = static_cast<int>(block.threads.size()) / kLanes;
  for (int warp = 0; warp < warps; ++warp) {
    bool all = true;
    for (int lane = 0; lane < kLanes; ++lane) all &= block.threads[warp * kLanes + lane].wait == Wait::warp;
    for (int lane = 0; all && lane < kLanes; ++lane) block.threads[warp * kLanes + lane].wait = Wait::none;
    any |= all;
  }
  if (any) return true;
  bool waits = false, all = true;
  for (const Thread& thread : block.threads) {
    waits |= thread.wait == Wait::block;
    all &= thread.wait == Wait::block || thread.wait == Wait::ended;
  }
  if (!waits || !all) return false;
  for (Thread& thread : block.threads) {
    if (thread.wait == Wait::block) thread.wait = Wait::none;
  }
  return true;
}

bool run_block(Block& block) {
  for (Thread& thread : block.threads) {
    thread.wait = Wait::none;
    thread.open.clear();
    thread.closed.clear();
    getcontext(&thread.context);
    thread.context.uc_stack.ss_sp = thread.stack.get();
    thread.context.uc_stack.ss_size = kStackBytes;
    thread.context.uc_link = nullptr;
    makecontext(&thread.context, enter, 0);
  }
  std::fill(block.shared.begin(), block.shared.end(), kPoison);
  const int count = static_cast<int>(block.threads.size());
  do {
    for (int i = 0; i < count; ++i) {
      Thread& thread = block.threads[last_thread_first ? count - 1 - i : i];
      if (thread.wait == Wait::none) run_thread(block, thread);
    }
  } while (release(block));
  for (const Thread& thread : block.threads) {
    if (thread.wait != Wait::ended) return false;
  }
  return true;
}

}  // namespace

const Place& place() { return current->place; }
unsigned char* shared_memory() { return current->shared.data(); }
void wait_for_block() { wait(Wait::block); }
void wait_for_warp() { wait(Wait::warp); }

unsigned char* lane_slot(int lane) { return current->threads[current->place.thread.x / kLanes * kLanes + lane].slot; }

void copy_later(void* to, const void* from, size_t bytes) { current->running->open.push_back({to, from, bytes}); }

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
    }
    closed.pop_front();
  }
}

int run(dim3 blocks, int threads, size_t bytes_shared, const std::function<void()>& body) {
  Block block;
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
      }
    }
  }
  current = nullptr;
  return done ? 0 : 1;
}

}  // namespace xmsim::emulator

// Threads run in the order of their numbers, or against it: what is right does not depend on it.
XM_API void xm_emulate_last_thread_first(int reversed) { xmsim::emulator::last_thread_first = reversed != 0; }
