//! See `nitrotap_fuzz::http1_response`.
#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|data: &[u8]| nitrotap_fuzz::http1_response(data));

#[cfg(not(fuzzing))]
nitrotap_fuzz::replay_main!(nitrotap_fuzz::http1_response);
