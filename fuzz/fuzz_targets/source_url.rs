#![no_main]

#[path = "../targets/source_url.rs"]
mod target;

libfuzzer_sys::fuzz_target!(|data: &[u8]| target::run(data));
