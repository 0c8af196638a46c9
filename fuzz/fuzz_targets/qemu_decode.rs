//! See `nitrotap_fuzz::qemu_decode`.
#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|data: &[u8]| nitrotap_fuzz::qemu_decode(data));

#[cfg(not(fuzzing))]
nitrotap_fuzz::replay_main!(nitrotap_fuzz::qemu_decode);
