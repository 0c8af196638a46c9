//! One stream of random numbers per purpose.
//!
//! Streams do not disturb each other: removing a fault or a client from a plan leaves every other draw as it was. That is
//! what makes shrinking work.

/// The stream for `purpose` under `seed`.
#[must_use]
pub fn stream(seed: u64, purpose: &str) -> fastrand::Rng {
    let mut state = seed ^ 0x9e37_79b9_7f4a_7c15;
    for byte in purpose.bytes() {
        state = mix(state ^ u64::from(byte));
    }
    fastrand::Rng::with_seed(mix(state))
}

/// The finaliser of `SplitMix64`: every input bit reaches every output bit.
pub(crate) const fn mix(x: u64) -> u64 {
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_depends_on_seed_and_purpose_alone() {
        let draw = |seed, purpose| stream(seed, purpose).u64(..);
        assert_eq!(draw(1, "load"), draw(1, "load"));
        assert_ne!(draw(1, "load"), draw(2, "load"));
        assert_ne!(draw(1, "load"), draw(1, "loae"));
        assert_ne!(draw(1, "ab"), draw(1, "ba"));
    }
}
