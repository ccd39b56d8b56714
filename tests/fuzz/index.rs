//! Any bytes as an index: see `claims::index`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    caswarm_fuzz::claims::index(bytes);
});
