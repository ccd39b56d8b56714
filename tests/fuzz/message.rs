//! Any bytes as a message: see `claims::message`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    caswarm_fuzz::claims::message(bytes);
});
