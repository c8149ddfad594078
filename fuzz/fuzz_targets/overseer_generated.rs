#![no_main]

#[allow(dead_code, reason = "each target runs one of them")]
#[path = "../../layers/overseer/tests/overseer/targets.rs"]
mod targets;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    targets::generated(bytes);
});
