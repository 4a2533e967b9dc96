//! Named random streams: one more consumer does not disturb the others, and compared policies see common random numbers.

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

/// A portable random stream: the same numbers on every machine and release of this crate.
pub type Stream = ChaCha8Rng;

/// Which numbers does the consumer `name` draw in the run with this seed? The key is the seed and an FNV-1a hash of the name.
pub fn stream(seed: u64, name: &str) -> Stream {
    let hash =
        |start: u64| name.bytes().fold(start, |h, byte| (h ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3));
    let mut key = [0; 32];
    key[..8].copy_from_slice(&seed.to_le_bytes());
    key[8..16].copy_from_slice(&hash(0xcbf2_9ce4_8422_2325).to_le_bytes());
    key[16..24].copy_from_slice(&hash(0x9ae1_6a3b_2f90_404f).to_le_bytes());
    key[24..].copy_from_slice(&(name.len() as u64).to_le_bytes());
    Stream::from_seed(key)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::Rng;

    #[test]
    fn streams_differ_by_seed_and_by_name_and_repeat() {
        let first = |seed, name| stream(seed, name).next_u64();
        assert_eq!(first(1, "router"), first(1, "router"));
        assert_ne!(first(1, "router"), first(2, "router"));
        assert_ne!(first(1, "router"), first(1, "lengths"));
    }
}
