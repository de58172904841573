#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| overspill_fuzz::holds::references(data));
