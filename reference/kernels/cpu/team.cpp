// Threads made for one call, until the host program lends its own.
#include "team.h"

#include <system_error>
#include <thread>
#include <vector>

#include "isa.h"

#if defined(__linux__)
#include <pthread.h>
#include <sched.h>
#endif

namespace xmsim {
namespace {

void spawned_team(void (*member)(void*), void* context, unsigned threads, unsigned) {
  std::vector<std::thread> others;
  others.reserve(threads - 1);
  try {
    while (others.size() + 1 < threads) others.emplace_back(member, context);
  } catch (const std::system_error&) {
    // no more threads for this process: those that are there do the work
  }
  member(context);
  for (auto& other : others) other.join();
}

std::atomic<Team> lent{spawned_team};

}  // namespace

Team team() { return lent.load(std::memory_order_relaxed); }

}  // namespace xmsim

// Let this function (GOMP_parallel of an OpenMP library that is loaded already) run every team; null: threads of our own.
XM_API void xm_use_team(void* gomp_parallel) {
  xmsim::lent.store(gomp_parallel ? reinterpret_cast<xmsim::Team>(gomp_parallel) : xmsim::spawned_team);
}

// Bind the i-th thread of a team of this size to cores[i], for as long as it lives.
XM_API void xm_pin_team(const int32_t* cores, int threads) {
#if defined(__linux__)
  struct Places {
    const int32_t* cores;
    std::atomic<int> next{1};
    const pthread_t caller = pthread_self();
  } places{cores};
  const auto member = [](void* context) {
    auto& all = *static_cast<Places*>(context);
    const int place = pthread_equal(pthread_self(), all.caller) ? 0 : all.next.fetch_add(1);
    cpu_set_t own;
    CPU_ZERO(&own);
    CPU_SET(all.cores[place], &own);
    pthread_setaffinity_np(pthread_self(), sizeof own, &own);
  };
  xmsim::team()(member, &places, static_cast<unsigned>(threads), 0);
#else
  (void)cores, (void)threads;
#endif
}
