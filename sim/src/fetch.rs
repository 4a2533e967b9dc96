//! Memory that is about to be read, asked for ahead of time.
//!
//! Thousands of replicas in turn are more memory than caches hold. A processor that is told early what it will need has it when the time
//! comes; one that reads it early waits for it. Nothing depends on it but how long that takes: where the processor has no such order,
//! nothing is done.

/// A line of memory, bytes.
const LINE: usize = 64;
/// Of a list that grows without end so many lines are asked for, at most.
const LINES_MAX: usize = 40;

/// Asks for every line of a value, and for nothing that it points to.
#[inline]
pub(crate) fn value<T>(of: &T) {
    let from = std::ptr::from_ref(of).cast();
    if align_of::<T>() < LINE {
        return lines(from, size_of::<T>());
    }
    for line in 0..size_of::<T>() / LINE {
        line_at(from.wrapping_add(line * LINE));
    }
}

/// Asks for the elements of a list, the first of them if it is long.
#[inline]
pub fn list<T>(of: &[T]) {
    lines(of.as_ptr().cast(), size_of_val(of).min(LINES_MAX * LINE));
}

/// Asks for the elements of a list and for the place of the next.
#[inline]
pub(crate) fn growing<T>(of: &Vec<T>) {
    let places = of.capacity().min(of.len() + 1);
    lines(of.as_ptr().cast(), (places * size_of::<T>()).min(LINES_MAX * LINE));
}

/// The memory of a list: where, and how much of it, bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Room {
    address: usize,
    bytes: usize,
}

impl Room {
    pub(crate) fn of<T>(list: &Vec<T>) -> Room {
        Room { address: list.as_ptr().addr(), bytes: list.capacity() * size_of::<T>() }
    }
}

/// Lists that lie side by side, asked for as one: that takes less to say than list by list.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Block {
    address: usize,
    lines: usize,
}

impl Block {
    /// Of the memory of these lists; empty if it does not lie together. Nothing depends on it when they move later on.
    pub(crate) fn of(lists: &[Room]) -> Block {
        let from = lists.iter().map(|room| room.address).min().unwrap_or(0) / LINE * LINE;
        let to = lists.iter().map(|room| room.address + room.bytes).max().unwrap_or(0);
        let taken: usize = lists.iter().map(|room| room.bytes + LINE).sum();
        let lines = (to - from).div_ceil(LINE);
        if lines * LINE > taken { Block::default() } else { Block { address: from, lines: lines.min(LINES_MAX) } }
    }

    /// Is there nothing to ask for?
    pub(crate) fn is_empty(self) -> bool {
        self.lines == 0
    }

    /// Asks for all of it.
    #[inline]
    pub(crate) fn fetch(self) {
        for line in 0..self.lines {
            line_at(std::ptr::without_provenance(self.address + line * LINE));
        }
    }
}

/// Asks for the last element of a list and for the place of the next.
#[inline]
pub fn end<T>(of: &Vec<T>) {
    let from = of.len().saturating_sub(1);
    let places = of.capacity().min(of.len() + 1) - from;
    lines(of.as_ptr().wrapping_add(from).cast(), places * size_of::<T>());
}

/// Asks for one element of a list, if it has one there.
#[inline]
pub fn element<T>(of: &[T], position: usize) {
    if let Some(element) = of.get(position) {
        value(element);
    }
}

/// Asks for every line of a value whose size is known only when the program runs.
#[inline]
pub(crate) fn dynamic<T: ?Sized>(of: &T) {
    lines(std::ptr::from_ref(of).cast(), size_of_val(of));
}

#[inline]
fn lines(from: *const u8, bytes: usize) {
    if bytes == 0 {
        return;
    }
    // From the line of the first byte to that of the last.
    let offset = from.addr() % LINE;
    for line in 0..(offset + bytes).div_ceil(LINE) {
        line_at(from.wrapping_sub(offset).wrapping_add(line * LINE));
    }
}

#[cfg(target_arch = "x86_64")]
#[inline]
fn line_at(address: *const u8) {
    use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
    // SAFETY: a prefetch reads nothing into the program and never faults, whatever the address.
    unsafe { _mm_prefetch::<_MM_HINT_T1>(address.cast()) }
}

#[cfg(not(target_arch = "x86_64"))]
#[inline]
fn line_at(_: *const u8) {}
