//! Every word of the tables: a byte in a row, whatever its length.

/// Declares the words and how they are written.
macro_rules! words {
    ($($word:ident = $text:literal),+ $(,)?) => {
        /// A word of the tables.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(crate) enum Word { $($word),+ }

        impl Word {
            const ALL: &[&str] = &[$($text),+];
            /// How many there are.
            pub(super) const COUNT: usize = Word::ALL.len();

            /// How is it written?
            pub(crate) fn text(self) -> &'static str {
                Word::ALL[self as usize]
            }
        }
    };
}

words! {
    // Ends of requests.
    Finished = "finished", TimedOut = "timed_out", Unfinished = "unfinished", Rejected = "rejected",
    // Why a request was rejected.
    TooLong = "too_long", AdapterTooLarge = "adapter_too_large", Router = "router",
    // Events.
    Held = "held", Routed = "routed", Load = "load", Evicted = "evicted", Preempted = "preempted", Migrated = "migrated",
    PowerOff = "power_off", PowerStarting = "power_starting", PowerOn = "power_on", PowerDraining = "power_draining",
    // Memories.
    Gpu = "gpu", Host = "host", Disk = "disk",
    // Causes of loads.
    Prefetch = "prefetch", Demand = "demand",
}
