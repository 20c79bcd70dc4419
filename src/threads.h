/* What the executor needs of threads and Cython cannot say: atomics, waiting, fork guards. */
#ifndef CNX_THREADS_H
#define CNX_THREADS_H

#include <pthread.h>
#include <sched.h>
#include <stdint.h>
#include <time.h>

#if CNX_OPENMP
#include <omp.h>
static inline int cnx_team_size(void) { return omp_get_num_threads(); }
static inline int cnx_max_threads(void) { return omp_get_max_threads(); }
static inline void cnx_pause_runtime(void) { omp_pause_resource_all(omp_pause_hard); }
#else
static inline int cnx_team_size(void) { return 1; }
static inline int cnx_max_threads(void) { return 1; }
static inline void cnx_pause_runtime(void) {}
#endif

static inline int64_t cnx_take(int64_t *counter) { return __atomic_fetch_add(counter, 1, __ATOMIC_RELAXED); }
static inline void cnx_finish(int64_t *counter) { __atomic_fetch_add(counter, 1, __ATOMIC_RELEASE); }

/* Wait until a counter has reached a number: 2,000 turns, some 20 us, then give the core to whoever holds the others up. */
static inline void cnx_wait_for(const int64_t *counter, int64_t number)
{
    for (int turn = 0; __atomic_load_n(counter, __ATOMIC_ACQUIRE) < number; turn++) {
        if (turn >= 2000) {
            sched_yield();
        } else {
#if defined(__x86_64__) || defined(__i386__)
            __builtin_ia32_pause();
#elif defined(__aarch64__)
            __asm__ volatile("yield");
#endif
        }
    }
}

/* Keeps the smallest step that failed, so that all workers leave after the same one. */
static inline void cnx_lower(int64_t *slot, int64_t value)
{
    int64_t seen = __atomic_load_n(slot, __ATOMIC_RELAXED);
    while (value < seen && !__atomic_compare_exchange_n(slot, &seen, value, 0, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {}
}
static inline int64_t cnx_read(const int64_t *slot) { return __atomic_load_n(slot, __ATOMIC_RELAXED); }

static inline double cnx_seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* Forking. The workers of an OpenMP team do not survive a fork, and the child would wait for them for ever. A fork that
 * Python sees (os.register_at_fork) first waits until no run is inside a region, then gives the team back. A fork that
 * only C sees leaves no chance for that: its child runs on one thread. */
static int64_t cnx_active_runs = 0;
static int cnx_fork_under_way = 0;
static int cnx_single_thread_only = 0;

static inline void cnx_enter_run(void)
{
    for (;;) {
        __atomic_fetch_add(&cnx_active_runs, 1, __ATOMIC_SEQ_CST);
        if (!__atomic_load_n(&cnx_fork_under_way, __ATOMIC_SEQ_CST)) return;
        __atomic_fetch_sub(&cnx_active_runs, 1, __ATOMIC_SEQ_CST);
        sched_yield();
    }
}
static inline void cnx_leave_run(void) { __atomic_fetch_sub(&cnx_active_runs, 1, __ATOMIC_SEQ_CST); }

static inline void cnx_before_fork(void)
{
    __atomic_store_n(&cnx_fork_under_way, 1, __ATOMIC_SEQ_CST);
    while (__atomic_load_n(&cnx_active_runs, __ATOMIC_SEQ_CST) > 0) sched_yield();
    cnx_pause_runtime();
}
static inline void cnx_after_fork(void) { __atomic_store_n(&cnx_fork_under_way, 0, __ATOMIC_SEQ_CST); }

static void cnx_fork_child(void)
{
    if (!cnx_fork_under_way) {
        cnx_single_thread_only = 1;
        cnx_active_runs = 0;
    }
}
static inline void cnx_guard_forks(void) { pthread_atfork(NULL, NULL, cnx_fork_child); }

#endif
