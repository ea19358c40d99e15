//! Counts what is allocated, so that a few bytes cannot ask for gigabytes unnoticed.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// The system's allocator, counting. What goes over [`Counting::limit`] ends the process, before
/// the machine runs out of memory.
pub struct Counting {
    held: AtomicUsize,
    peak: AtomicUsize,
    limit: AtomicUsize,
    begun: AtomicUsize,
}

impl Counting {
    /// Counts from 0, without a limit.
    pub const fn new() -> Counting {
        Counting {
            held: AtomicUsize::new(0),
            peak: AtomicUsize::new(0),
            limit: AtomicUsize::new(usize::MAX),
            begun: AtomicUsize::new(0),
        }
    }

    /// Counts the peak anew, from now on, and ends the process where more than `more` bytes are
    /// added to what is held now.
    pub fn limit(&self, more: usize) {
        let held = self.held.load(Relaxed);
        self.peak.store(held, Relaxed);
        self.begun.store(held, Relaxed);
        self.limit.store(held.saturating_add(more), Relaxed);
    }

    /// The most that was held since the last [`Counting::limit`], beyond what was held then.
    pub fn peak(&self) -> usize {
        self.peak
            .load(Relaxed)
            .saturating_sub(self.begun.load(Relaxed))
    }

    fn took(&self, bytes: usize) {
        let held = self.held.fetch_add(bytes, Relaxed) + bytes;
        self.peak.fetch_max(held, Relaxed);
        let limit = self.limit.load(Relaxed);
        if held > limit {
            // Whoever reports this allocates too.
            self.limit.store(usize::MAX, Relaxed);
            eprintln!("allocated {held} bytes in all, of which {bytes} at once: limit {limit}");
            std::process::abort();
        }
    }

    fn gave(&self, bytes: usize) {
        self.held.fetch_sub(bytes, Relaxed);
    }
}

// SAFETY: every call is the system allocator's own; counting touches atomics only.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        self.took(layout.size());
        // SAFETY: the caller's promises are passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        self.took(layout.size());
        // SAFETY: the caller's promises are passed on.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        self.gave(layout.size());
        // SAFETY: the caller's promises are passed on.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        self.gave(layout.size());
        self.took(size);
        // SAFETY: the caller's promises are passed on.
        unsafe { System.realloc(pointer, layout, size) }
    }
}
