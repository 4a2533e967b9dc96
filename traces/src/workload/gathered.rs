//! Requests drawn some at a time, ahead of who asks for them.
//!
//! Between two requests of a simulation so much else happens that the code of the laws, and what they remember, is far away when the
//! next one is drawn. Many in a row share the way there.

use std::iter::Fuse;

/// So many are drawn at once: few enough to stay near until they are asked for.
const GATHERED: usize = 256;

/// The same items in the same order.
pub(crate) struct Gathered<I: Iterator> {
    source: Fuse<I>,
    /// The next one last.
    ready: Vec<I::Item>,
}

impl<I: Iterator> Gathered<I> {
    pub(crate) fn new(source: I) -> Gathered<I> {
        Gathered { source: source.fuse(), ready: Vec::with_capacity(GATHERED) }
    }

    #[inline(never)]
    fn gather(&mut self) {
        self.ready.extend(self.source.by_ref().take(GATHERED));
        self.ready.reverse();
    }
}

impl<I: Iterator> Iterator for Gathered<I> {
    type Item = I::Item;

    fn next(&mut self) -> Option<I::Item> {
        if self.ready.is_empty() {
            self.gather();
        }
        self.ready.pop()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_gathered_comes_in_its_order_and_ends_once() {
        for count in [0, 1, GATHERED - 1, GATHERED, GATHERED + 1, 3 * GATHERED] {
            let mut gathered = Gathered::new(0..count);
            assert!(gathered.by_ref().eq(0..count));
            assert_eq!(gathered.next(), None);
        }
    }
}
