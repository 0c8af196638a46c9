//! See `nitrotap_fuzz::ipv4_reassembly`.
#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|data: &[u8]| nitrotap_fuzz::ipv4_reassembly(data));

#[cfg(not(fuzzing))]
nitrotap_fuzz::replay_main!(nitrotap_fuzz::ipv4_reassembly);
