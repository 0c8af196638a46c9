//! Large allocations straight from the kernel, so that memory is taken only where it is touched.
//!
//! A TCP connection has two buffers of up to half a megabyte, and most connections use a page of each. Allocators keep a
//! header in the first page of a large block, and hand out blocks that were used before and must be filled with zeroes:
//! either would make an idle connection cost what a busy one does. Here a large block is a mapping of its own, untouched
//! until it is used, and gone when it is freed. Everything else is left to the system's allocator.
#![expect(unsafe_code, reason = "an allocator hands out raw memory")]

use rustix::{
    mm::{Advice, MapFlags, ProtFlags, madvise, mmap_anonymous, munmap},
    process::{Resource, getrlimit},
};
use std::{
    alloc::{GlobalAlloc, Layout, System},
    ptr,
    sync::atomic::{AtomicBool, AtomicPtr, AtomicUsize, Ordering},
};

/// Blocks from this size on are mapped. Smaller ones cost more by a system call than by their unused pages.
const MAPPED: usize = 128 << 10;

/// The largest alignment that a mapping has by itself, on every architecture.
const PAGE: usize = 4096;

/// See the module.
pub(crate) struct Allocator;

const fn is_mapped(size: usize, align: usize) -> bool {
    size >= MAPPED && align <= PAGE
}

/// Address space that small allocations get when there is no more, so that what is large can be refused before they fail:
/// where one fails, the process ends. It is a quarter of what the process may have (`ulimit -v`), within these bounds.
const RESERVE: std::ops::RangeInclusive<usize> = 16 << 20..=128 << 20;

/// Bytes of the reserve. Zero until somebody has asked for it.
static SIZE: AtomicUsize = AtomicUsize::new(0);

/// The reserve; null while it is used up, or was never there.
static PUT_ASIDE: AtomicPtr<u8> = AtomicPtr::new(ptr::null_mut());

/// `len` zeroes that take memory only where they are touched; `None` where memory is used up, or so near to it that only
/// small allocations may go on.
pub(crate) fn zeroed(len: usize) -> Option<Vec<u8>> {
    if !put_aside() {
        return None;
    }
    if !is_mapped(len, 1) {
        let mut zeroes = Vec::new();
        zeroes.try_reserve_exact(len).ok()?;
        zeroes.resize(len, 0);
        return Some(zeroes);
    }
    let block = map(len)?;
    // SAFETY: `alloc` gives blocks of this size and alignment from there too, so the vector may free it; it is zeroed.
    Some(unsafe { Vec::from_raw_parts(block, len, len) })
}

/// Where address space is limited (`ulimit -v`), none is given to what may never need it: glibc gives each thread 64 MiB of it
/// for its small allocations. Called before there are threads.
pub(crate) fn save_address_space() {
    #[cfg(target_env = "gnu")]
    if getrlimit(Resource::As).current.is_some() {
        // SAFETY: it takes numbers, and nobody else allocates meanwhile. Where it fails, all is as before.
        unsafe { libc::mallopt(libc::M_ARENA_MAX, 1) };
    }
}

/// Whether something new may begin: memory is not used up, and what is in progress has the reserve, or as much in the heap.
pub(crate) fn has_reserve() -> bool {
    put_aside() || HEAP_HAS_ROOM.load(Ordering::Relaxed)
}

/// Whether the heap had as much as the reserve to give when somebody last looked.
static HEAP_HAS_ROOM: AtomicBool = AtomicBool::new(false);

/// Looks for room in the heap while there is no reserve: what was freed in the middle of it never goes back to the kernel. To
/// be called a few times a second, since it walks through all that is free.
pub(crate) fn look_for_room() {
    #[cfg(target_env = "gnu")]
    if !put_aside() {
        // SAFETY: it only counts. Of more than 4 GiB, it gives the rest.
        let free = unsafe { libc::mallinfo() }.fordblks.cast_unsigned() as usize;
        HEAP_HAS_ROOM.store(free >= size_of_reserve(), Ordering::Relaxed);
    }
}

/// Makes sure that the reserve is there; false if it cannot be.
fn put_aside() -> bool {
    if !PUT_ASIDE.load(Ordering::Acquire).is_null() {
        return true;
    }
    let size = size_of_reserve();
    let Some(block) = map(size) else { return false };
    if PUT_ASIDE.compare_exchange(ptr::null_mut(), block, Ordering::AcqRel, Ordering::Acquire).is_err() {
        // Another thread was faster.
        // SAFETY: `map` has just given it, with this size, and nobody else knows it.
        let _ = unsafe { munmap(block.cast(), size) };
    }
    true
}

/// Decided once, since who gives the reserve up must know it.
fn size_of_reserve() -> usize {
    let known = SIZE.load(Ordering::Acquire);
    if known > 0 {
        return known;
    }
    let quarter = getrlimit(Resource::As).current.map_or(0, |limit| usize::try_from(limit / 4).unwrap_or(usize::MAX));
    let size = quarter.clamp(*RESERVE.start(), *RESERVE.end());
    SIZE.compare_exchange(0, size, Ordering::AcqRel, Ordering::Acquire).map_or_else(|other| other, |_| size)
}

/// Gives the reserve to whoever needs memory now; false if there is none.
fn give_up_reserve() -> bool {
    let block = PUT_ASIDE.swap(ptr::null_mut(), Ordering::AcqRel);
    // SAFETY: `put_aside` mapped it with this size, and whoever takes it out of there is the only one that has it.
    !block.is_null() && unsafe { munmap(block.cast(), size_of_reserve()) }.is_ok()
}

/// Fresh pages.
fn map(len: usize) -> Option<*mut u8> {
    let (access, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE);
    // SAFETY: without an address the kernel chooses one that is free.
    let block = unsafe { mmap_anonymous(ptr::null_mut(), len, access, flags) }.ok()?;
    // A huge page would be taken for the first byte. Kernels without huge pages refuse, and need not be told.
    // SAFETY: the block was just mapped, and the advice changes no contents.
    let _ = unsafe { madvise(block, len, Advice::LinuxNoHugepage) };
    Some(block.cast())
}

/// What `attempt` gives, or gives once the reserve is there for it.
fn insist(attempt: impl Fn() -> *mut u8) -> *mut u8 {
    let block = attempt();
    if block.is_null() && give_up_reserve() { attempt() } else { block }
}

// SAFETY: a block comes either from the kernel or from `System`, decided by its size and alignment alone, which the
// caller repeats when it gives it back; so each block goes back to where it came from. Mappings are at least as large and
// as aligned as asked for, private and zeroed.
unsafe impl GlobalAlloc for Allocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if !is_mapped(layout.size(), layout.align()) {
            // SAFETY: the caller's promise is passed on.
            return insist(|| unsafe { System.alloc(layout) });
        }
        insist(|| map(layout.size()).unwrap_or(ptr::null_mut()))
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        if is_mapped(layout.size(), layout.align()) {
            // SAFETY: the caller's promise is passed on. A mapping is zeroed.
            return unsafe { self.alloc(layout) };
        }
        // SAFETY: the caller's promise is passed on.
        insist(|| unsafe { System.alloc_zeroed(layout) })
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        if is_mapped(layout.size(), layout.align()) {
            // SAFETY: `alloc` mapped it with this size, and nobody uses it any more.
            let _ = unsafe { munmap(block.cast(), layout.size()) };
            return;
        }
        // SAFETY: `alloc` got it from there.
        unsafe { System.dealloc(block, layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        if !is_mapped(layout.size(), layout.align()) && !is_mapped(new_size, layout.align()) {
            // SAFETY: it is `System`'s and stays there.
            return insist(|| unsafe { System.realloc(block, layout, new_size) });
        }
        // SAFETY: the caller promises that the new size is right for a layout of this alignment.
        let new_layout = unsafe { Layout::from_size_align_unchecked(new_size, layout.align()) };
        // SAFETY: the new size is not zero, as the caller promises.
        let new = unsafe { self.alloc(new_layout) };
        if !new.is_null() {
            // SAFETY: both blocks are at least that long and cannot overlap; then the old one goes where it came from.
            unsafe {
                ptr::copy_nonoverlapping(block, new, layout.size().min(new_size));
                self.dealloc(block, layout);
            }
        }
        new
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The resident pages of this process.
    fn resident() -> usize {
        let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
        statm.split_ascii_whitespace().nth(1).unwrap().parse().unwrap()
    }

    #[test]
    fn a_large_block_takes_memory_only_where_it_is_touched() {
        let before = resident();
        let mut blocks: Vec<Vec<u8>> = (0..64).map(|_| vec![0; 1 << 20]).collect();
        // Other tests run beside this one; 64 MiB are 16384 pages.
        assert!(resident() < before + 8192);
        for block in &mut blocks {
            block.fill(1);
        }
        assert!(resident() > before + 8192);
        assert!(blocks.iter().all(|block| block.iter().all(|b| *b == 1)));
    }

    #[test]
    fn zeroes_are_refused_where_there_is_no_room_for_them() {
        for len in [0, 1, 4096, 128 << 10, 1 << 20] {
            let mut zeroes = zeroed(len).unwrap();
            assert!(zeroes.len() == len && zeroes.iter().all(|b| *b == 0));
            zeroes.push(1);
            zeroes.shrink_to_fit();
        }
        assert_eq!(zeroed(1 << 62), None, "beyond every address space");
    }

    #[test]
    fn the_reserve_is_given_up_for_what_would_fail_and_put_aside_again() {
        assert!(put_aside());
        let tries = std::cell::Cell::new(0);
        let block = insist(|| {
            tries.set(tries.get() + 1);
            if tries.get() == 1 { ptr::null_mut() } else { ptr::dangling_mut() }
        });
        assert!(!block.is_null() && tries.get() == 2);
        assert!(zeroed(1).is_some() && !PUT_ASIDE.load(Ordering::Acquire).is_null());
    }

    #[test]
    fn blocks_grow_and_shrink_across_the_border() {
        let mut bytes: Vec<u8> = Vec::new();
        for n in 0..300_000_u32 {
            bytes.push(n as u8);
        }
        bytes.truncate(1000);
        bytes.shrink_to_fit();
        bytes.reserve_exact(500_000);
        assert!(bytes.iter().enumerate().all(|(n, b)| *b == n as u8));
    }
}
