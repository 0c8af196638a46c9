//! See `nitrotap_fuzz::gvproxy_decode`.
#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|data: &[u8]| nitrotap_fuzz::gvproxy_decode(data));

#[cfg(not(fuzzing))]
nitrotap_fuzz::replay_main!(nitrotap_fuzz::gvproxy_decode);
