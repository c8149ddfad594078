//! What must not compile (source: TESTS 6).
#![cfg(not(loom))]

#[test]
fn a_receiver_cannot_be_shared() {
    trybuild::TestCases::new().compile_fail("tests/trybuild/*.rs");
}
