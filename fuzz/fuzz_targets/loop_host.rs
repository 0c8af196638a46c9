//! See `nitrotap_fuzz::loop_host`.
#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|data: &[u8]| nitrotap_fuzz::loop_host(data));

#[cfg(not(fuzzing))]
nitrotap_fuzz::replay_main!(nitrotap_fuzz::loop_host);
