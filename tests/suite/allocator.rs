//! The allocator of the tests: the system's, with the largest request of each thread kept. It shows that no length out
//! of foreign bytes is believed before there is reason to.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

struct Watching;

#[global_allocator]
static ALLOCATOR: Watching = Watching;

thread_local! {
    static LARGEST: Cell<usize> = const { Cell::new(0) };
}

fn note(bytes: usize) {
    // A thread that is ending has no such cell any more, and nothing to be watched.
    let _ = LARGEST.try_with(|largest| largest.set(largest.get().max(bytes)));
}

/// What `work` gives, and the largest number of bytes that it asked for at once.
pub fn largest_request<T>(work: impl FnOnce() -> T) -> (T, usize) {
    LARGEST.with(|largest| largest.set(0));
    let value = work();
    (value, LARGEST.with(Cell::get))
}

// SAFETY: every call goes to the system's allocator as it came; noting a number in a cell of the thread, which is made
// without an allocation and is never dropped, changes nothing about it.
unsafe impl GlobalAlloc for Watching {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        note(layout.size());
        // SAFETY: the caller keeps what `alloc` asks of it.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        note(layout.size());
        // SAFETY: the caller keeps what `alloc_zeroed` asks of it.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        note(size);
        // SAFETY: the caller keeps what `realloc` asks of it.
        unsafe { System.realloc(block, layout, size) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: the caller keeps what `dealloc` asks of it.
        unsafe { System.dealloc(block, layout) }
    }
}

#[test]
fn the_largest_request_is_seen() {
    let (text, largest) = largest_request(|| {
        let mut text = vec![0u8; 5000];
        text.reserve_exact(20_000);
        text.len()
    });
    assert_eq!((text, largest), (5000, 25_000));
}
