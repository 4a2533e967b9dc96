//! Prices that were asked for last: the same come again and again.

/// Answers by fingerprint, each at the place that the fingerprint's bits give. An answer does not depend on what is here: it is what would be
/// made of the same question, but for one in 2⁶⁴.
#[derive(Clone, Debug)]
pub(super) struct Memory<T> {
    known: Vec<(u64, T)>,
    asked: u64,
    made: u64,
}

/// A power of two.
const PLACES: usize = 4096;

impl<T: Copy + Default> Memory<T> {
    /// The answer to what has this fingerprint; it is made if it is not known.
    #[inline(always)]
    pub(super) fn recall(&mut self, print: u64, make: impl FnOnce() -> T) -> T {
        self.find(print).unwrap_or_else(|| self.keep(print, make()))
    }

    /// The answer to what has this fingerprint, if it is known; whoever makes it [keeps](Memory::keep) it.
    #[inline(always)]
    pub(super) fn find(&mut self, print: u64) -> Option<T> {
        self.asked += 1;
        let (of, answer) = self.known.get(place(print))?;
        (*of == print | 1).then_some(*answer)
    }

    /// From now on this answer is known.
    #[inline(always)]
    pub(super) fn keep(&mut self, print: u64, answer: T) -> T {
        self.made += 1;
        if let Some(known) = self.known.get_mut(place(print)) {
            // No answer has the fingerprint of an empty place.
            *known = (print | 1, answer);
        }
        answer
    }

    /// From now on what was asked is known. Takes memory once.
    pub(super) fn remember(&mut self) {
        self.known = vec![(0, T::default()); PLACES];
    }

    /// Is what was asked known?
    pub(super) fn remembers(&self) -> bool {
        !self.known.is_empty()
    }

    /// From now on nothing is.
    pub(super) fn forget(&mut self) {
        self.known = Vec::new();
    }

    /// How many answers were asked for, and how many of them had to be made?
    pub(super) fn asked_and_made(&self) -> (u64, u64) {
        (self.asked, self.made)
    }
}

fn place(print: u64) -> usize {
    (print >> 8) as usize % PLACES
}

impl<T> Default for Memory<T> {
    /// Nothing is remembered.
    fn default() -> Memory<T> {
        Memory { known: Vec::new(), asked: 0, made: 0 }
    }
}
