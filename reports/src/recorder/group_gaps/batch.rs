//! Who is in the batch of a replica, and since when.
//!
//! Thousands of replicas are far from the processor. So what is known of a sequence stays in its place while it is there, and only its
//! number moves when somebody before it leaves.

use aril_sim::fact::Who;
use aril_sim::fetch;

use super::NONE;
use super::chapter::{Part, Stay};

/// Rows that a batch takes memory for at first.
const USUAL_ROWS: usize = 32;

/// Those who were in the last step of a replica.
pub(super) struct Batch {
    /// In the order of the step.
    pub(super) order: Order,
    /// By place.
    members: Vec<Member>,
    /// The first place that nobody has, or [`NONE`]; the next one is where somebody's part of the log would begin.
    free: u32,
}

impl Default for Batch {
    fn default() -> Self {
        Batch { order: Order::default(), members: Vec::new(), free: NONE }
    }
}

/// Requests, and the places of their sequences.
#[derive(Default)]
pub(super) struct Order {
    requests: Vec<u32>,
    places: Vec<u32>,
}

/// A sequence in a batch.
#[derive(Clone, Copy)]
pub(super) struct Member {
    pub(super) request: u32,
    pub(super) tenant: u32,
    /// [`NONE`]: the base model.
    pub(super) adapter: u32,
    /// Where its part of the log begins.
    pub(super) from: u32,
    /// When it joined, picoseconds.
    pub(super) joined: u64,
}

impl Order {
    pub(super) fn len(&self) -> usize {
        self.requests.len()
    }

    #[cfg(test)]
    pub(super) fn requests(&self) -> &[u32] {
        &self.requests
    }

    /// Asks for who is there.
    pub(super) fn fetch(&self) {
        fetch::list(&self.requests);
        fetch::list(&self.places);
    }

    pub(super) fn clear(&mut self) {
        self.requests.clear();
        self.places.clear();
    }

    pub(super) fn push(&mut self, request: u32, place: u32) {
        self.requests.push(request);
        self.places.push(place);
    }

    /// Takes out a request that comes from position `first` on, and most likely not far from `at`: those who go on mostly keep their order.
    /// Gives its position and its place.
    pub(super) fn take(&mut self, request: u32, first: usize, at: usize) -> Option<(usize, u32)> {
        let find = |from: usize, to: usize| {
            self.requests[from..to].iter().position(|other| *other == request).map(|position| from + position)
        };
        let position = find(at, self.len()).or_else(|| find(first, at))?;
        self.requests[position] = NONE;
        Some((position, self.places[position]))
    }
}

impl Batch {
    pub(super) fn members(&self) -> impl Iterator<Item = &Member> {
        self.order.places.iter().map(|place| &self.members[*place as usize])
    }

    pub(super) fn member_mut(&mut self, place: u32) -> &mut Member {
        &mut self.members[place as usize]
    }

    pub(super) fn each_mut(&mut self, change: impl Fn(&mut Member)) {
        self.order.places.iter().for_each(|place| change(&mut self.members[*place as usize]));
    }

    /// Asks for what is known of the first who is not in the next step, after so many who are.
    pub(super) fn fetch_leaving(&self, who: &[Who], same: usize) {
        let requests = self.order.requests.iter().skip(same);
        let going_on = requests.zip(who.iter().skip(same)).take_while(|(request, who)| **request == who.request().0);
        if let Some(place) = self.order.places.get(same + going_on.count()) {
            fetch::element(&self.members, *place as usize);
        }
    }

    /// Gives a newcomer a place.
    pub(super) fn seat(&mut self, member: Member) -> u32 {
        match self.members.get_mut(self.free as usize) {
            Some(free) => std::mem::replace(&mut self.free, std::mem::replace(free, member).from),
            None => {
                if self.members.capacity() == 0 {
                    self.move_in();
                }
                self.members.push(member);
                self.members.len() as u32 - 1
            }
        }
    }

    /// Takes the memory of a usual batch at once: lists of thousands of replicas that grow are copied, again and again.
    fn move_in(&mut self) {
        self.members.reserve(USUAL_ROWS);
        self.order.requests.reserve(USUAL_ROWS);
        self.order.places.reserve(USUAL_ROWS);
    }

    /// Lets go of those who left from among those who go on, as long as these, who come after the first `same`, keep their order. Gives
    /// how many are the same then.
    pub(super) fn close_ranks(&mut self, who: &[Who], mut same: usize, mut leaves: impl FnMut(&Member)) -> usize {
        let Batch { order: Order { requests, places }, members, free } = self;
        while let Some(next) = who.get(same)
            && let Some(left) = requests[same..].iter().position(|request| *request == next.request().0)
        {
            requests.drain(same..same + left);
            for place in places.drain(same..same + left) {
                leaves(&members[place as usize]);
                members[place as usize].from = std::mem::replace(free, place);
            }
            let in_order = who[same..].iter().zip(&requests[same..]);
            same += in_order.take_while(|(who, request)| who.request().0 == **request).count();
        }
        same
    }

    /// After the first `same` come these. Those who were there, and are not taken out, leave.
    pub(super) fn replace(&mut self, same: usize, next: &Order, mut leaves: impl FnMut(&Member)) {
        let Batch { order: Order { requests, places }, members, free } = self;
        for (_, place) in requests.drain(same..).zip(places.drain(same..)).filter(|(request, _)| *request != NONE) {
            leaves(&members[place as usize]);
            members[place as usize].from = std::mem::replace(free, place);
        }
        requests.extend_from_slice(&next.requests);
        places.extend_from_slice(&next.places);
    }
}

impl Member {
    /// Its stay, if it saw a gap; `to` is the end of its replica's log, `last_end` that of the last step.
    pub(super) fn stay(&self, replica: u32, to: usize, last_end: u64) -> Option<Stay> {
        let Member { request, tenant, adapter, from, joined } = *self;
        let to = to as u32;
        let part = Part { replica, from, to };
        (from < to).then(|| Stay { sum: last_end.saturating_sub(joined), request, tenant, adapter, part })
    }
}
