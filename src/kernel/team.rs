//! A team of threads that stays awake between the many short parallel sections of a forward
//! pass (about 200 a decode step, each some ten microseconds): a general pool's wake-ups would
//! cost as much as the work.

use std::cell::UnsafeCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{JoinHandle, Thread};

/// Looks at the epoch this often before giving the core away, and before sleeping.
const SPINS_BEFORE_YIELD: usize = 200;
const SPINS_BEFORE_PARK: usize = 5_000;

type Job = *const (dyn Fn(usize) + Sync);

struct Shared {
    /// Raised by one for every section; workers wait for it to move.
    epoch: AtomicUsize,
    job: UnsafeCell<Option<Job>>,
    remaining: AtomicUsize,
    panicked: AtomicBool,
    stop: AtomicBool,
    parked: Vec<AtomicBool>,
}

// SAFETY: `job` is written only by the thread that holds the team's lock while no worker runs
// (remaining == 0), and read by workers only after the epoch moved.
unsafe impl Sync for Shared {}
// SAFETY: as above.
unsafe impl Send for Shared {}

/// `threads` threads, the caller among them, that run one closure together.
pub struct Team {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
    handles: Vec<Thread>,
    running: Mutex<()>,
}

impl Team {
    /// A team of `threads` (at least 1) threads, or of as many as the system grants.
    pub fn new(threads: usize) -> Arc<Team> {
        let threads = threads.max(1);
        let shared = Arc::new(Shared {
            epoch: AtomicUsize::new(0),
            job: UnsafeCell::new(None),
            remaining: AtomicUsize::new(0),
            panicked: AtomicBool::new(false),
            stop: AtomicBool::new(false),
            parked: (1..threads).map(|_| AtomicBool::new(false)).collect(),
        });
        let workers: Vec<_> = (1..threads)
            .map_while(|id| {
                let shared = shared.clone();
                std::thread::Builder::new()
                    .name(format!("lenaware-{id}"))
                    .spawn(move || work(&shared, id))
                    .ok()
            })
            .collect();
        let handles = workers.iter().map(|w| w.thread().clone()).collect();
        Arc::new(Team {
            shared,
            workers,
            handles,
            running: Mutex::new(()),
        })
    }

    /// As many threads as the machine has cores for this process.
    pub fn of_the_machine() -> Arc<Team> {
        Team::new(std::thread::available_parallelism().map_or(1, usize::from))
    }

    /// Threads that run together, the caller's among them.
    pub fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Runs `job(id)` on every thread of the team, `id` in 0..threads, and returns when all
    /// are done. Must not be called from inside a job.
    ///
    /// # Panics
    /// If the job panicked on any thread.
    pub fn run(&self, job: &(dyn Fn(usize) + Sync)) {
        if self.workers.is_empty() {
            job(0);
            return;
        }
        let guard = self
            .running
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        let shared = &*self.shared;
        // SAFETY: the lifetime is only erased for the time of this call: it does not return
        // before every worker is done with the job.
        let erased: Job = unsafe { std::mem::transmute(job as *const (dyn Fn(usize) + Sync)) };
        // SAFETY: no worker runs now, see `Shared`.
        unsafe { *shared.job.get() = Some(erased) };
        shared
            .remaining
            .store(self.workers.len(), Ordering::Relaxed);
        shared.epoch.fetch_add(1, Ordering::SeqCst);
        for (parked, handle) in shared.parked.iter().zip(&self.handles) {
            if parked.load(Ordering::SeqCst) {
                handle.unpark();
            }
        }
        let own = catch_unwind(AssertUnwindSafe(|| job(0)));
        let mut spins = 0;
        while shared.remaining.load(Ordering::Acquire) != 0 {
            spins += 1;
            if spins % SPINS_BEFORE_YIELD == 0 {
                std::thread::yield_now();
            } else {
                std::hint::spin_loop();
            }
        }
        let worker_panicked = shared.panicked.swap(false, Ordering::Relaxed);
        drop(guard);
        if let Err(payload) = own {
            std::panic::resume_unwind(payload);
        }
        assert!(!worker_panicked, "a thread of the team panicked");
    }

    /// Runs `job` on every index of `0..count`, handed out in blocks of `block` as threads
    /// come free.
    pub fn for_each(&self, count: usize, block: usize, job: &(dyn Fn(usize) + Sync)) {
        let block = block.max(1);
        if count <= block {
            (0..count).for_each(job);
            return;
        }
        let next = AtomicUsize::new(0);
        self.run(&|_| {
            loop {
                let start = next.fetch_add(block, Ordering::Relaxed);
                if start >= count {
                    break;
                }
                (start..(start + block).min(count)).for_each(job);
            }
        });
    }
}

/// A slice that threads write disjoint parts of.
pub(crate) struct Disjoint(*mut f32, usize);
// SAFETY: `slice`'s callers promise disjoint ranges.
unsafe impl Sync for Disjoint {}

impl Disjoint {
    pub(crate) fn new(slice: &mut [f32]) -> Disjoint {
        Disjoint(slice.as_mut_ptr(), slice.len())
    }

    /// Elements `start..start + len`.
    ///
    /// # Safety
    /// No two live slices may overlap.
    #[allow(clippy::mut_from_ref)]
    pub(crate) unsafe fn slice(&self, start: usize, len: usize) -> &mut [f32] {
        assert!(start + len <= self.1);
        // SAFETY: in bounds, disjoint by the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.0.add(start), len) }
    }
}

impl Drop for Team {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        self.shared.epoch.fetch_add(1, Ordering::SeqCst);
        for handle in &self.handles {
            handle.unpark();
        }
        for worker in self.workers.drain(..) {
            // A worker never panics outside `catch_unwind`.
            let _ = worker.join();
        }
    }
}

fn work(shared: &Shared, id: usize) {
    let mut seen = 0;
    loop {
        let mut spins = 0;
        while shared.epoch.load(Ordering::Acquire) == seen {
            spins += 1;
            if spins >= SPINS_BEFORE_PARK {
                let parked = &shared.parked[id - 1];
                parked.store(true, Ordering::SeqCst);
                if shared.epoch.load(Ordering::SeqCst) == seen {
                    std::thread::park();
                }
                parked.store(false, Ordering::SeqCst);
            } else if spins % SPINS_BEFORE_YIELD == 0 {
                std::thread::yield_now();
            } else {
                std::hint::spin_loop();
            }
        }
        seen += 1;
        if shared.stop.load(Ordering::SeqCst) {
            return;
        }
        // SAFETY: the epoch moved, so the job was written before and stays until this
        // worker has counted itself done.
        if let Some(job) = unsafe { *shared.job.get() } {
            // SAFETY: as above: whoever gave the job waits for this worker.
            let run = || unsafe { (*job)(id) };
            if catch_unwind(AssertUnwindSafe(run)).is_err() {
                shared.panicked.store(true, Ordering::Relaxed);
            }
        }
        shared.remaining.fetch_sub(1, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_thread_runs_every_section_once() {
        for threads in 1..5 {
            let team = Team::new(threads);
            let counts: Vec<AtomicUsize> = (0..threads).map(|_| AtomicUsize::new(0)).collect();
            for _ in 0..500 {
                team.run(&|id| {
                    counts[id].fetch_add(1, Ordering::Relaxed);
                });
            }
            assert!(counts.iter().all(|c| c.load(Ordering::Relaxed) == 500));
        }
    }

    #[test]
    fn sleeping_workers_wake_up() {
        let team = Team::new(3);
        for _ in 0..3 {
            std::thread::sleep(std::time::Duration::from_millis(50));
            let sum = AtomicUsize::new(0);
            team.for_each(1000, 7, &|i| {
                sum.fetch_add(i, Ordering::Relaxed);
            });
            assert_eq!(sum.into_inner(), 999 * 1000 / 2);
        }
    }

    #[test]
    fn a_panic_reaches_the_caller_and_leaves_the_team_usable() {
        let team = Team::new(2);
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            team.run(&|id| assert!(id == 0, "worker fails"));
        }));
        assert!(outcome.is_err());
        let ran = AtomicUsize::new(0);
        team.run(&|_| {
            ran.fetch_add(1, Ordering::Relaxed);
        });
        assert_eq!(ran.into_inner(), 2);
    }
}
