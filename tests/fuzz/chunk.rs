//! Any bytes as a chunk file: see `claims::chunk`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    caswarm_fuzz::claims::chunk(bytes);
});
