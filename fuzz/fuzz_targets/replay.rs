//! `replay` for libFuzzer; what it checks is in the library.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    baton_fuzz::replay(bytes);
});
