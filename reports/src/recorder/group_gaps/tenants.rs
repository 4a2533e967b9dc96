//! Whose is a request that is in flight?

use std::collections::VecDeque;

use super::NONE;

/// The tenants of the requests from the oldest that is in flight.
#[derive(Default)]
pub(super) struct Tenants {
    /// Id of the first.
    first: u32,
    /// [`NONE`]: it is over.
    of: VecDeque<u32>,
}

impl Tenants {
    /// The next request is of this tenant.
    pub(super) fn arrived(&mut self, tenant: u32) {
        self.of.push_back(tenant);
    }

    /// Nobody will ask for this request any more.
    pub(super) fn over(&mut self, request: u32) {
        if let Some(tenant) = self.of.get_mut(request.wrapping_sub(self.first) as usize) {
            *tenant = NONE;
        }
        while self.of.front() == Some(&NONE) {
            self.of.pop_front();
            self.first += 1;
        }
    }

    /// The tenant of a request that is in flight.
    pub(super) fn of(&self, request: u32) -> Option<u32> {
        self.of.get(request.wrapping_sub(self.first) as usize).copied().filter(|tenant| *tenant != NONE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_those_from_the_oldest_in_flight_are_known() {
        let mut tenants = Tenants::default();
        (10..15).for_each(|tenant| tenants.arrived(tenant));
        tenants.over(1);
        tenants.over(2);
        assert_eq!(
            (0..6).map(|request| tenants.of(request)).collect::<Vec<_>>(),
            [Some(10), None, None, Some(13), Some(14), None]
        );
        tenants.over(0);
        assert_eq!((tenants.first, tenants.of.len()), (3, 2));
        tenants.arrived(15);
        tenants.over(2);
        assert_eq!((2..6).map(|request| tenants.of(request)).collect::<Vec<_>>(), [None, Some(13), Some(14), Some(15)]);
    }
}
