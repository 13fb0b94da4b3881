// Work split over threads.
#pragma once

#include <atomic>
#include <cstdint>

namespace xmsim {

// Calls member(context) on so many threads at once, the caller among them, and returns when all have returned. The signature of
// libgomp's GOMP_parallel, so that the threads that PyTorch keeps can be the team.
using Team = void (*)(void (*member)(void*), void* context, unsigned threads, unsigned flags);
Team team();

// Calls body(part) for 0 <= part < parts. Whichever thread is free takes the next part, so a part's result may not depend on the thread.
template <class Body>
void for_parts(int64_t parts, int threads, const Body& body) {
  struct Shared {
    const Body& body;
    const int64_t parts;
    std::atomic<int64_t> next{0};
  } shared{body, parts};
  const auto member = [](void* context) {
    auto& work = *static_cast<Shared*>(context);
    for (int64_t part; (part = work.next.fetch_add(1, std::memory_order_relaxed)) < work.parts;) work.body(part);
  };
  if (threads > parts) threads = static_cast<int>(parts);
  if (threads <= 1) {
    member(&shared);
  } else {
    team()(member, &shared, static_cast<unsigned>(threads), 0);
  }
}

}  // namespace xmsim
