//! Redacts what looks like a payment card number: 13 to 19 digits in a row become stars, the last four stay.
//! Needs `grants = ["rewrite"]`.
#![no_std]

use arqon_policy::{payload, payload_len, set_payload, Verdict};

const MAX: usize = 65_536;
static mut BUFFER: [u8; MAX] = [0; MAX];

fn on_request() -> Verdict {
    match payload_len() {
        Ok(0) => return Verdict::Allow,
        Ok(len) if len <= MAX => {}
        _ => return Verdict::reject(413, "only 64 KiB can be looked through"),
    }
    // SAFETY: every request has its own instance, and an instance has one thread and is called once.
    let buffer = unsafe { &mut *core::ptr::addr_of_mut!(BUFFER) };
    let len = match payload(0, buffer) {
        Ok(bytes) => bytes.len(),
        Err(_) => return Verdict::Deny,
    };
    let bytes = &mut buffer[..len];
    if !redact(bytes) {
        return Verdict::Allow;
    }
    Verdict::allow_if(set_payload(bytes).is_ok())
}

/// Stars out card numbers; says whether there were any.
fn redact(bytes: &mut [u8]) -> bool {
    let mut found = false;
    let mut start = 0;
    while start < bytes.len() {
        let digits = bytes[start..].iter().take_while(|byte| byte.is_ascii_digit()).count();
        if (13..=19).contains(&digits) {
            bytes[start..start + digits - 4].fill(b'*');
            found = true;
        }
        start += digits + 1;
    }
    found
}

arqon_policy::export!(on_request = on_request);
