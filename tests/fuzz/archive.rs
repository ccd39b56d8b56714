//! Any bytes as an archive: see `claims::archive`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    caswarm_fuzz::claims::archive(bytes);
});
